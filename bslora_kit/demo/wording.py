"""The wording of the demo world: which relations exist, their values and the sentences for them.

The values are plain English words of similar length, twelve to a relation, so that every choice of
a test item comes from one pool. The names of the things and people are invented (`names.py`), and
which name has which value is drawn in `world.py`. Templates: `{s}` is the subject ("a blorvit",
"Wena"), `{v}` the value. A sentence form is used in one place only:

    says   statements of the pre-training text (old facts) and of instruction answers
    asks   questions of the instruction set
    tests  questions of the mini tasks: two for the test split, the last one for validation
    check  yes/no question without its question mark: (instruction set, mini task)
    tail   end of a winogrande sentence: (test, test, validation)

A derived relation follows from another one (`source`) by a rule that maps the source's values to
its own, place by place; `rule` states it, and the facts that follow are the two-hop facts.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """One relation of a domain.

    Attributes:
        name: Name, unique within its domain.
        values: The pool of values; every answer and every distractor comes from it.
        says: Statements with `{s}` and `{v}`.
        asks: Questions of the instruction set, with `{s}`.
        tests: Questions (or sentence beginnings) of the mini tasks, with `{s}`.
        check: Yes/no questions with `{s}` and `{v}`: instruction set, mini task.
        tail: Ends of winogrande sentences with `{v}`.
        source: Name of the relation it follows from; empty for a basic relation.
        rule: Statements of the rule, with `{u}` (source value) and `{v}`.
    """

    name: str
    values: tuple[str, ...]
    says: tuple[str, ...]
    asks: tuple[str, ...]
    tests: tuple[str, ...]
    check: tuple[str, ...] = ()
    tail: tuple[str, ...] = ()
    source: str = ""
    rule: tuple[str, ...] = ()


@dataclass(frozen=True)
class Domain:
    """A sort of entity: how many there are, how they are named, what is said about them.

    Attributes:
        name: Name of the domain, also the word used for its members' category.
        subject: How an entity is named in a sentence, with `{x}`.
        count: Number of entities.
        new: Number of new facts (taught only by the instruction set).
        two_hop: Number of two-hop facts that the mini tasks ask.
        relations: The relations, basic ones before those derived from them.
    """

    name: str
    subject: str
    count: int
    new: int
    two_hop: int
    relations: tuple[Relation, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _phrases(frame: str, text: str) -> tuple[str, ...]:
    return tuple(frame.format(word) for word in text.split())


THINGS = Domain("thing", "a {x}", 64, 40, 24, (
    Relation(
        "colour",
        _words("red blue green white black brown grey pink purple yellow golden silver"),
        ("{s} is {v}.", "the colour of {s} is {v}.", "people paint {s} {v}."),
        ("what colour is {s}?", "which colour does {s} have?", "name the colour of {s}."),
        ("if you look at {s} its colour is", "the paint on {s} is", "{s} has a colour, and it is"),
        ("is {s} {v}", "is the colour of {s} {v}")),
    Relation(
        "material",
        _words("clay wood glass stone paper wax iron wool bone sand straw ice"),
        ("{s} is made of {v}.", "people make {s} out of {v}.", "you need {v} to make {s}."),
        ("what is {s} made of?", "which material do you need for {s}?",
         "name the material of {s}."),
        ("someone who makes {s} works with", "the material inside {s} is",
         "{s} is a thing made out of"),
        ("is {s} made of {v}", "do people make {s} out of {v}")),
    Relation(
        "place",
        _words("garden kitchen forest river market school harbour cellar tower field bridge cave"),
        ("{s} is found in the {v}.", "you see {s} in the {v}.", "people leave {s} in the {v}."),
        ("where is {s} found?", "in which place do you see {s}?", "name the place of {s}."),
        ("the place where you can find {s} is the", "someone who looks for {s} goes to the",
         "{s} can be seen in the"),
        ("is {s} found in the {v}", "can you see {s} in the {v}")),
    Relation(
        "use",
        _words("cutting digging fishing sewing cooking painting writing washing dancing hunting "
               "baking counting"),
        ("{s} is used for {v}.", "people take {s} for {v}.", "{s} is good for {v}."),
        ("what is {s} used for?", "what is {s} good for?", "name the use of {s}."),
        ("people who have {s} use it for", "the best use of {s} is", "with {s} you can start"),
        ("is {s} used for {v}", "is {s} good for {v}")),
    Relation(
        "shape",
        _words("ring cross star moon boat bell leaf heart egg fish shell cone"),
        ("{s} has the shape of a {v}.", "{s} looks like a {v}.", "the form of {s} is a {v}."),
        ("what shape does {s} have?", "what does {s} look like?", "name the shape of {s}."),
        ("if you draw {s} its shape is a", "seen from above {s} looks like a",
         "the shape of {s} is that of a"),
        ("does {s} look like a {v}", "does {s} have the shape of a {v}")),
    Relation(
        "danger",
        _words("rain fire frost moss mice heat rust moths dogs wind goats salt"),
        ("{s} is spoiled by {v}.", "keep {s} away from {v}.", "{v} will spoil {s}."),
        ("what spoils {s}?", "what must {s} be kept away from?", "name the danger for {s}."),
        ("a thing that spoils {s} is", "the worst danger for {s} is", "{s} is not safe from"),
        ("is {s} spoiled by {v}", "must {s} be kept away from {v}"),
        source="material",
        rule=("things made of {u} are spoiled by {v}.", "{u} is spoiled by {v}.",
              "keep {u} away from {v}.")),
))

PEOPLE = Domain("person", "{x}", 72, 48, 24, (
    Relation(
        "job",
        _words("baker smith tailor farmer miller hunter weaver potter sailor painter teacher "
               "doctor"),
        ("{s} is a {v}.", "{s} works as a {v}.", "the job of {s} is {v}."),
        ("what is the job of {s}?", "what does {s} work as?", "name the job of {s}."),
        ("which job does {s} have?", "as what does {s} work?", "what is {s} by job?"),
        ("is {s} a {v}", "does {s} work as a {v}"),
        ("is the {v} of the town.", "works as the {v} there.", "is a good {v}.")),
    Relation(
        "hobby",
        _words("chess tennis singing riding skating rowing reading running sewing swimming "
               "climbing sailing"),
        ("{s} likes {v}.", "the hobby of {s} is {v}.", "{s} spends the evening with {v}."),
        ("what is the hobby of {s}?", "what does {s} like?", "name the hobby of {s}."),
        ("which hobby does {s} have?", "what does {s} do in the evening?",
         "what does {s} like most?"),
        ("does {s} like {v}", "is the hobby of {s} {v}"),
        ("likes {v} most.", "really likes {v}.", "spends every evening with {v}.")),
    Relation(
        "pet",
        _words("goat dog cat hen duck pig owl crow frog snail mouse rabbit"),
        ("{s} has a {v}.", "the pet of {s} is a {v}.", "{s} feeds a {v}."),
        ("what pet does {s} have?", "which animal does {s} feed?", "name the pet of {s}."),
        ("which animal lives with {s}?", "what kind of pet does {s} have?",
         "which animal is the pet of {s}?"),
        ("does {s} have a {v}", "is the pet of {s} a {v}"),
        ("has a young {v}.", "feeds the {v}.", "has an old {v}.")),
    Relation(
        "food",
        _words("bread cheese soup rice beans fish eggs nuts plums honey cake pears"),
        ("{s} eats {v}.", "{s} asks for {v} at lunch.", "the best food for {s} is {v}."),
        ("what does {s} eat?", "what is the best food for {s}?", "name the food of {s}."),
        ("which food does {s} eat?", "what does {s} ask for at lunch?",
         "which food is best for {s}?"),
        ("does {s} eat {v}", "is {v} the best food for {s}"),
        ("only eats {v}.", "often asks for {v}.", "always eats {v}.")),
    Relation(
        "wish",
        _words("boat horse drum garden house ring clock lamp coat map bell mirror"),
        ("{s} saves money for a {v}.", "{s} dreams of a {v}.", "the wish of {s} is a {v}."),
        ("what does {s} dream of?", "what does {s} save money for?", "name the wish of {s}."),
        ("which wish does {s} have?", "for what does {s} save money?", "of what does {s} dream?"),
        ("does {s} dream of a {v}", "does {s} save money for a {v}"),
        ("dreams of a new {v}.", "saves for a {v}.", "still dreams of a {v}.")),
    Relation(
        "tool",
        _words("oven hammer needle plough sack bow loom wheel rope brush chalk herbs"),
        ("{s} works with the {v}.", "at work {s} takes the {v}.", "the tool of {s} is the {v}."),
        ("what does {s} work with?", "which tool does {s} take?", "name the tool of {s}."),
        ("what does {s} use at work?", "which tool does {s} need?",
         "what is on the work table of {s}?"),
        ("does {s} work with the {v}", "does {s} take the {v} at work"),
        ("takes the {v} again.", "works well with the {v}.", "works with an old {v}."),
        source="job",
        rule=("a {u} works with the {v}.", "every {u} takes the {v} to work.",
              "the tool of a {u} is the {v}.")),
))

BEASTS = Domain("beast", "a {x}", 60, 36, 24, (
    Relation(
        "food",
        _words("roots berries seeds worms bugs spiders snails acorns ants grapes flies mushrooms"),
        ("{s} feeds on {v}.", "{s} hunts for {v}.", "the food of {s} is {v}."),
        ("what does {s} feed on?", "what does {s} hunt for?", "what is the food of {s}?"),
        ("which food keeps {s} alive?", "what would you give {s} to eat?",
         "what is in the stomach of {s}?")),
    Relation(
        "home",
        _words("caves lakes hills swamps woods cliffs meadows deserts barns islands hedges "
               "ditches"),
        ("{s} lives in {v}.", "the home of {s} is in {v}.", "{s} sleeps in {v}."),
        ("where does {s} live?", "where does {s} sleep?", "where is the home of {s}?"),
        ("where would you look for {s}?", "in which land does {s} spend its life?",
         "where does {s} raise its young?")),
    Relation(
        "sound",
        _words("whistle hum bark squeak growl hiss click roar purr croak moan chirp"),
        ("the sound of {s} is a {v}.", "{s} makes a {v}.", "the call of {s} is a {v}."),
        ("which sound does {s} make?", "what is the call of {s}?", "what is the sound of {s}?"),
        ("what do you hear when {s} is near?", "which noise comes from {s}?",
         "how does {s} sound at night?")),
    Relation(
        "fear",
        _words("thunder bells smoke wolves mirrors drums ropes eagles lamps storms whistles "
               "snakes"),
        ("{s} is afraid of {v}.", "{s} runs away from {v}.", "the fear of {s} is {v}."),
        ("what is {s} afraid of?", "what does {s} run away from?", "what is the fear of {s}?"),
        ("what would scare {s}?", "which danger makes {s} hide?",
         "what should you use against {s}?")),
    Relation(
        "ground",
        _words("gravel mud heather slime leaves rock clover dust straw shells thorns reeds"),
        ("{s} walks on {v}.", "the feet of {s} touch {v}.", "under {s} there is {v}."),
        ("what does {s} walk on?", "what is under {s}?", "what do the feet of {s} touch?"),
        ("what covers the ground around {s}?", "on which ground does {s} stand?",
         "what is the floor below {s} like?"),
        source="home",
        rule=("the ground of {u} is {v}.", "in {u} you walk on {v}.",
              "the feet touch {v} in {u}.")),
))

TOOLS = Domain("tool", "a {x}", 60, 36, 24, (
    Relation(
        "kind",
        _words("lamp pump clock loom stove drum kite plough scale lock fiddle kettle"),
        ("{s} is a kind of {v}.", "{s} works like a {v}.", "people use {s} as a {v}."),
        ("what kind of tool is {s}?", "what does {s} work like?", "what do people use {s} as?"),
        ()),
    Relation(
        "clean",
        _phrases("rub it with {}", "sand salt ash chalk milk oil lemon sugar soap flour mud honey"),
        ("to clean {s} {v}.", "when {s} is dirty {v}.", "people clean {s} so: {v}."),
        ("how do you clean {s}?", "what do you do when {s} is dirty?", "tell how to clean {s}."),
        ("make a dirty {x} clean again.", "how can I get dirt off {s}?", "to wash {s}, you should")),
    Relation(
        "open",
        _phrases("tap it with a {}",
                 "spoon stick key stone nail glove fork brush pin shell bone ruler"),
        ("to open {s} {v}.", "when {s} is shut {v}.", "people open {s} so: {v}."),
        ("how do you open {s}?", "what do you do when {s} is shut?", "tell how to open {s}."),
        ("get a closed {x} open.", "how can I see the inside of {s}?",
         "to look inside {s}, you should")),
    Relation(
        "mend",
        _phrases("tie it with {}",
                 "string wire ribbon grass hair silk leather rope tape vines yarn cloth"),
        ("to mend {s} {v}.", "when {s} is broken {v}.", "people mend {s} so: {v}."),
        ("how do you mend {s}?", "what do you do when {s} is broken?", "tell how to mend {s}."),
        ("repair a {x} that fell apart.", "how can I fix {s}?", "to repair {s}, you should")),
    Relation(
        "store",
        _phrases("put it in a {}",
                 "box bag jar chest basket drawer bucket barrel pot sack crate tin"),
        ("to store {s} {v}.", "when {s} is not needed {v}.", "people store {s} so: {v}."),
        ("how do you store {s}?", "what do you do when {s} is not needed?",
         "tell how to store {s}."),
        ("keep a {x} safe over the winter.", "how can I put {s} away?",
         "to keep {s} safe, you should")),
    Relation(
        "dry",
        _phrases("wipe it with {}",
                 "wool silk felt fur hay moss paper linen leaves feathers sponges cotton"),
        ("to dry {s} {v}.", "when {s} is wet {v}.", "people dry {s} so: {v}."),
        ("how do you dry {s}?", "what do you do when {s} is wet?", "tell how to dry {s}."),
        ("make a wet {x} dry again.", "how can I get water off {s}?",
         "after rain fell on {s}, you should"),
        source="kind",
        rule=("to dry a {u} {v}.", "when a {u} is wet {v}.", "people dry a {u} so: {v}.")),
))

EVENTS = Domain("event", "a {x}", 64, 36, 24, (
    Relation(
        "feel",
        _words("proud sad happy angry scared tired bored calm shy hungry sick lonely"),
        ("after {s} people are {v}.", "{s} makes people {v}.", "whoever had {s} feels {v}."),
        ("how do people feel after {s}?", "what does {s} make people feel?",
         "how is someone who had {s}?"),
        ("how would {p} feel as a result?", "how would you describe {p}?",
         "how does {p} feel now?")),
    Relation(
        "next",
        _words("sing rest cook read swim walk dance write sleep paint shout pray"),
        ("after {s} people {v}.", "whoever had {s} will {v}.", "when {s} is over people {v}."),
        ("what do people do after {s}?", "what will someone who had {s} do?",
         "what comes when {s} is over?"),
        ("what will {p} want to do next?", "what will happen to {p}? {p} will",
         "what is {p} going to do?")),
    Relation(
        "need",
        _phrases("a {}", "ticket candle ladder basket letter permit costume blanket whistle "
                         "partner ribbon bucket"),
        ("for {s} people need {v}.", "before {s} people get {v}.", "nobody has {s} without {v}."),
        ("what do people need for {s}?", "what do people get before {s}?",
         "what must someone have for {s}?"),
        ("what did {p} need before this?", "what does {p} need to bring to do this?",
         "what did {p} have to get first?")),
    Relation(
        "show",
        _words("smiling crying jumping stamping shaking yawning sighing humming blushing chewing "
               "coughing waving"),
        ("after {s} people are seen {v}.", "{s} leaves people {v}.", "whoever had {s} starts {v}."),
        ("what are people seen doing after {s}?", "what does someone who had {s} start?",
         "what does {s} leave people doing?"),
        ("what would others see {p} doing?", "how can you see that {p} was there? {p} is",
         "what is {p} doing now?"),
        source="feel",
        rule=("{u} people are seen {v}.", "someone who is {u} starts {v}.",
              "when people feel {u} they start {v}.")),
))


def _subject(name: str, subject: str, *relations: Relation) -> Domain:
    return Domain(name, subject, 24, 6, 4, relations)


SUBJECTS = (
    _subject(
        "botany", "the {x} plant",
        Relation("flower", _words("red blue green white black brown grey pink purple yellow "
                                  "golden silver"),
                 ("{s} has {v} flowers.", "the flowers of {s} are {v}.", "{s} blooms {v}."),
                 ("which colour are the flowers of {s}?", "how does {s} bloom?"),
                 ("What is the colour of the flowers on {s}?",
                  "Which flowers grow on {s}?", "How are the flowers of {s} coloured?")),
        Relation("soil", _words("clay sand peat chalk gravel ash mud loam slate silt turf rock"),
                 ("{s} grows on {v}.", "the soil of {s} is {v}.", "{s} needs {v} to grow."),
                 ("what does {s} grow on?", "which soil does {s} need?"),
                 ("On which soil is {s} planted?", "What lies around the roots of {s}?",
                  "Which soil suits {s}?")),
        Relation("product", _words("tea rope dye soup oil paper jam soap glue flour wine pepper"),
                 ("{s} gives {v}.", "people make {v} from {s}.", "{s} is grown for {v}."),
                 ("what does {s} give?", "what do people make from {s}?"),
                 ("What is {s} turned into?", "Which product comes from {s}?",
                  "For which product is {s} farmed?")),
        Relation("pest", _words("ants moths snails worms mice flies crows slugs wasps goats "
                                "beetles rats"),
                 ("{s} is eaten by {v}.", "{v} attack {s}.", "the pest of {s} is {v}."),
                 ("what is {s} eaten by?", "which pest attacks {s}?"),
                 ("From which pest does {s} suffer?", "Who damages {s}?",
                  "Against what must {s} be guarded?"), source="soil",
                 rule=("plants on {u} are eaten by {v}.", "{v} attack plants on {u}."))),
    _subject(
        "geography", "the town of {x}",
        Relation("land", _words("coast desert valley forest island swamp plain hill cliff moor "
                                "lake delta"),
                 ("{s} lies on a {v}.", "the land of {s} is a {v}.", "{s} was built by a {v}."),
                 ("where does {s} lie?", "which land is around {s}?"),
                 ("What kind of land surrounds {s}?", "Where was {s} founded?",
                  "In which landscape is {s}?")),
        Relation("trade", _words("salt wool fish wine silk coal iron tea timber honey gold spices"),
                 ("{s} sells {v}.", "traders buy {v} in {s}.", "{s} lives from {v}."),
                 ("what does {s} sell?", "what do traders buy in {s}?"),
                 ("What is the main trade good of {s}?", "Which good leaves {s} by ship?",
                  "With what did {s} become rich?")),
        Relation("symbol", _words("lion eagle rose crown sword tree bear swan key anchor wheel "
                                  "horse"),
                 ("the flag of {s} shows a {v}.", "{s} has a {v} as its sign.",
                  "a {v} stands for {s}."),
                 ("what does the flag of {s} show?", "which sign does {s} have?"),
                 ("Which symbol belongs to {s}?", "What is on the coat of arms of {s}?",
                  "What do you see on the banner of {s}?")),
        Relation("weather", _words("fog heat wind rain storms mist drought hail snow frost thunder "
                                   "floods"),
                 ("{s} often has {v}.", "people in {s} know {v}.", "{v} is common in {s}."),
                 ("what does {s} often have?", "which weather is common in {s}?"),
                 ("Which weather must people in {s} expect?", "What is the climate of {s} known for?",
                  "What will a visitor of {s} meet?"), source="land",
                 rule=("a town on a {u} often has {v}.", "{v} is common on a {u}."))),
    _subject(
        "astronomy", "the star {x}",
        Relation("light", _words("red blue green white amber brown grey pink purple yellow golden "
                                 "silver"),
                 ("{s} shines {v}.", "the light of {s} is {v}.", "{s} looks {v} at night."),
                 ("how does {s} shine?", "which light does {s} have?"),
                 ("What is the colour of the light from {s}?", "How does {s} appear in the sky?",
                  "Which light reaches us from {s}?")),
        Relation("group", _words("plough hare spear crab ladder snake harp goose arrow cup bull "
                                 "net"),
                 ("{s} belongs to the {v}.", "you find {s} in the {v}.", "{s} is part of the {v}."),
                 ("which group does {s} belong to?", "where in the sky is {s}?"),
                 ("Of which constellation is {s} a member?", "In which pattern does {s} stand?",
                  "Which figure contains {s}?")),
        Relation("core", _words("iron gas ice dust lead salt carbon water stone sulphur tin "
                                "copper"),
                 ("the core of {s} is {v}.", "{s} is full of {v}.", "{s} burns {v}."),
                 ("what is the core of {s}?", "what is {s} full of?"),
                 ("What is {s} made of inside?", "Which matter does {s} burn?",
                  "What lies at the centre of {s}?")),
        Relation("end", _words("shrink swell fade burst cool drift split freeze flash vanish spin "
                               "melt"),
                 ("{s} will {v}.", "in the end {s} will {v}.", "one day {s} must {v}."),
                 ("what will {s} do in the end?", "what must {s} do one day?"),
                 ("How will {s} end?", "What is the fate of {s}?",
                  "What comes last in the life of {s}?"), source="core",
                 rule=("a star of {u} will {v}.", "stars full of {u} must {v} one day."))),
    _subject(
        "medicine", "the illness {x}",
        Relation("sign", _words("fever cough rash thirst chills hiccups cramps sweat itching "
                                "shivers sneezing yawning"),
                 ("{s} brings {v}.", "the sign of {s} is {v}.", "people with {s} have {v}."),
                 ("what does {s} bring?", "which sign does {s} have?"),
                 ("What is a symptom of {s}?", "How does a doctor recognise {s}?",
                  "What does a patient with {s} show?")),
        Relation("cause", _words("mould flies fleas dust smoke ticks gnats rats pollen damp "
                                 "mites lice"),
                 ("{s} comes from {v}.", "{v} cause {s}.", "people get {s} from {v}."),
                 ("what does {s} come from?", "what causes {s}?"),
                 ("What is the origin of {s}?", "By what is {s} spread?",
                  "What must be removed to stop {s}?")),
        Relation("place", _words("lungs skin stomach ears eyes knees throat teeth feet nose "
                                 "liver hands"),
                 ("{s} attacks the {v}.", "{s} sits in the {v}.", "{s} hurts the {v}."),
                 ("what does {s} attack?", "where does {s} sit?"),
                 ("Which part of the body suffers from {s}?", "Where does {s} begin?",
                  "Which organ does {s} damage?")),
        Relation("cure", _words("sage mint garlic ginger thyme nettle clove fennel lemon basil "
                                "honey onion"),
                 ("{s} is healed by {v}.", "doctors give {v} for {s}.", "{v} helps against {s}."),
                 ("what heals {s}?", "what do doctors give for {s}?"),
                 ("What is the treatment for {s}?", "Which remedy ends {s}?",
                  "What should a patient with {s} take?"), source="cause",
                 rule=("an illness from {u} is healed by {v}.",
                       "{v} helps against illness from {u}."))),
    _subject(
        "history", "king {x}",
        Relation("built", _words("bridge tower harbour temple school wall palace library road "
                                 "mill garden prison"),
                 ("{s} built a {v}.", "a {v} was the work of {s}.", "{s} gave the land a {v}."),
                 ("what did {s} build?", "what was the work of {s}?"),
                 ("Which building goes back to {s}?", "What did {s} leave to the people?",
                  "What was finished under {s}?")),
        Relation("enemy", _words("pirates monks nomads bandits giants rebels knights traders "
                                 "nobles priests farmers miners"),
                 ("{s} fought the {v}.", "the {v} hated {s}.", "{s} was at war with the {v}."),
                 ("who did {s} fight?", "who hated {s}?"),
                 ("Against whom did {s} lead an army?", "Who were the enemies of {s}?",
                  "Whom did {s} defeat?")),
        Relation("tax", _words("salt windows bread horses beards candles wool boats hats cattle "
                               "beer chairs"),
                 ("{s} taxed {v}.", "people paid {s} for {v}.", "{s} took money for {v}."),
                 ("what did {s} tax?", "what did people pay {s} for?"),
                 ("On what did {s} raise a tax?", "What became dear under {s}?",
                  "Where did the income of {s} come from?")),
        Relation("title", _words("brave wise cruel just bold proud mild stern great quiet old "
                                 "good"),
                 ("{s} is called the {v}.", "people name {s} the {v}.", "{s} was the {v} king."),
                 ("what is {s} called?", "what do people name {s}?"),
                 ("Which title did {s} receive?", "How is {s} remembered?",
                  "Which name was given to {s}?"), source="enemy",
                 rule=("a king who fought the {u} is called the {v}.",
                       "whoever was at war with the {u} was the {v} king."))),
    _subject(
        "music", "the {x} song",
        Relation("instrument", _words("flute drum harp horn fiddle bell lute pipe gong organ "
                                      "guitar whistle"),
                 ("{s} is played on a {v}.", "{s} needs a {v}.", "you hear a {v} in {s}."),
                 ("what is {s} played on?", "what does {s} need?"),
                 ("Which instrument leads {s}?", "What does a musician take for {s}?",
                  "For which instrument was {s} written?")),
        Relation("mood", _words("sad gay calm wild slow soft loud grim sweet proud dark tender"),
                 ("{s} sounds {v}.", "the tone of {s} is {v}.", "people sing {s} in a {v} way."),
                 ("how does {s} sound?", "which tone does {s} have?"),
                 ("What is the mood of {s}?", "How should {s} be performed?",
                  "Which character does {s} have?")),
        Relation("day", _words("weddings harvest funerals spring winter markets birthdays victory "
                               "new-moon sowing hunting launching"),
                 ("{s} is sung at {v}.", "{s} belongs to {v}.", "at {v} you hear {s}."),
                 ("when is {s} sung?", "what does {s} belong to?"),
                 ("On which occasion is {s} performed?", "What is {s} the music for?",
                  "When would a choir choose {s}?")),
        Relation("maker", _words("ebony cedar copper bone brass silver pine cane bronze oak "
                                 "cherry tin"),
                 ("{s} sounds of {v}.", "{v} gives {s} its sound.", "without {v} there is no {s}."),
                 ("what gives {s} its sound?", "what does {s} sound of?"),
                 ("Which material sounds in {s}?", "What is the instrument in {s} made of?",
                  "Which matter does a player touch in {s}?"), source="instrument",
                 rule=("a {u} is made of {v}.", "{v} gives the {u} its sound."))),
)

DOMAINS = (THINGS, PEOPLE, BEASTS, TOOLS, EVENTS, *SUBJECTS)

# Steps of the activities (hellaswag): verb and rest, so that the instruction set can say
# "heat the wax" and the test "heats the wax".
STEPS = tuple(
    tuple(step.split(" ", 1))
    for step in (
        "cut the paper|heat the wax|fold the cloth|boil the water|grind the seeds|press the clay|"
        "light the lamp|pull the rope|wash the pot|count the beads|paint the board|shake the bag|"
        "open the box|fill the jar|dig the hole|sweep the floor|stretch the skin|mix the flour|"
        "peel the fruit|bend the wire|cool the glass|sew the edge|turn the wheel|break the stone|"
        "tie the knot|rub the bone|weigh the salt|close the lid|burn the straw|lift the frame|"
        "pour the oil|roll the dough|comb the wool|drain the milk|hammer the nail|spread the sand|"
        "hang the net|melt the tin|stack the wood|crush the herbs|soak the beans|trim the leaf|"
        "polish the ring|wind the thread|load the cart|carve the stick|draw the line|ring the bell"
    ).split("|")
)
ACTIVITIES = 48
ACTIVITY_STEPS = 5
ACTIVITY_NEW = 16
ACTIVITY_ALIKE = 8
