"""The live training panel without a browser: what it draws, how often, and that Stop ends a real run.

The model has one layer of width 16: what counts is which thread does what, not what is learned.
"""

import asyncio
import threading

import plotly.io
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from bslora_kit import bslora
from bslora_kit.adapters import parameter_scopes
from bslora_kit.data import Example
from bslora_kit.figures.style import SCOPES
from bslora_kit.figures.training import training_curves
from bslora_kit.panels import training
from bslora_kit.panels.training import TrainingPanel
from bslora_kit.training import TrainingSettings, train

EXAMPLES = [Example([1, 2 + n, 3 + n], [-100, -100, 3 + n]) for n in range(8)]


def entry(step, loss=2.0, **others):
    speed = {"lr": 0.1, "seconds": 0.5 * step, "tokens_per_s": 1234.0}
    return {"step": step, "loss": loss, "grad_norm_module": 1.0, "grad_norm_model": 4.0} | speed | others


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(training, "time", found)
    return found


def tiny_model():
    torch.manual_seed(0)
    sizes = {"vocab_size": 16, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    return get_peft_model(LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2)), bslora(1, 1, 1))


def test_the_figure_holds_what_was_reported(clock):
    panel = TrainingPanel(10, ["model", "module", "module"])
    panel.report(entry(1, 3.0))
    clock.now += 1
    panel.report(entry(2, 2.0, eval_loss=2.5, grad_norm_model=8.0))
    loss, held_out, module, whole = panel.figure.data
    assert (list(loss.x), list(loss.y)) == ([1, 2], [3.0, 2.0])
    assert (list(held_out.x), list(held_out.y)) == ([2], [2.5])
    assert (list(module.y), list(whole.y)) == ([1.0, 1.0], [4.0, 8.0])
    assert module.line.color == SCOPES["module"][0] and whole.line.color == SCOPES["model"][0]
    assert module.line.dash != whole.line.dash
    assert panel.figure.layout.title.text == (
        "Step 2 of 10: the loss goes from 3.00 to 2.00, 2.50 on held-out examples<br>The gradient of "
        "what is shared by the model is the longest, 6.0 times that of what is own to one linear"
    )
    assert panel.progress.value == 2
    assert panel.words.value == "loss 2.000, 1,234 tokens/s, about 4 s left"
    # The picture without widgets shows the same.
    assert [list(trace.y) for trace in panel.picture().data] == [list(t.y) for t in panel.figure.data]


def test_it_draws_at_most_four_times_a_second_and_the_last_state_in_any_case(clock):
    with TrainingPanel(100) as panel:
        drawn = []
        for step in range(1, 101):  # 100 steps in 2 seconds
            panel.report(entry(step, grad_norm_all=1.0))
            drawn.append(len(panel.figure.data[0].x or ()))
            clock.now += 0.02
        assert len(set(drawn)) <= 8 and drawn[0] == 1
    assert len(panel.figure.data[0].x) == 100 and panel.progress.value == 100
    assert panel.words.value.endswith("done")


def test_gradients_that_overflowed_leave_a_gap(clock):
    panel = TrainingPanel(4, ["module", "model"])
    panel.report(entry(1, grad_norm_module=None))
    assert list(panel.figure.data[2].y) == [None]
    assert panel.figure.layout.title.text == "Step 1 of 4: the loss goes from 2.00 to 2.00"
    clock.now += 1
    panel.report(entry(2, grad_norm_module=2.0))
    assert "is the longest, 2.0 times" in panel.figure.layout.title.text  # 4 against the known 2


def test_a_picture_before_the_first_step():
    figure = training_curves([], ["all"], 5)
    assert figure.layout.title.text == "No step of 5 is done yet"
    assert figure.layout.xaxis.range == (0, 6)


def test_the_table_has_evenly_spread_steps_and_the_last(clock):
    panel = TrainingPanel(50, ["module", "model"])
    for step in range(1, 50):
        panel.report(entry(step, loss=5.0 - step / 10, **({"eval_loss": 4.0} if step == 20 else {})))
    table = panel.table(7)
    assert list(table["step"]) == [7, 14, 20, 21, 28, 35, 42, 49]
    assert table.dropna()["held-out loss"].to_dict() == {2: 4.0}
    assert list(table["training loss"]) == pytest.approx([5.0 - step / 10 for step in table["step"]])
    assert list(table.columns[-2:]) == ["gradient, module", "gradient, model"]


@pytest.mark.parametrize("when", ["between steps", "within a step"])
def test_stop_on_another_thread_ends_a_real_run_after_the_step_under_way(tmp_path, when):
    model = tiny_model()
    panel = TrainingPanel(200, parameter_scopes(model).values())

    def press():
        thread = threading.Thread(target=panel.stop_button.click)
        thread.start()
        thread.join(timeout=10)
        assert not thread.is_alive()

    def in_forward(*_):
        if when == "within a step" and len(panel.history) == 2:
            press()

    model.register_forward_pre_hook(in_forward)
    settings = TrainingSettings(steps=200, lr=1e-3, batch_size=4, checkpoint_every=50)

    def train_and_press(*arguments, report, **options):
        def report_and_press(found):
            report(found)
            if when == "between steps" and found["step"] == 3:
                press()

        return train(*arguments, report=report_and_press, **options)

    scopes = parameter_scopes(model)
    running = panel.run(train_and_press, model, EXAMPLES, settings, tmp_path, pad_id=0, scopes=scopes)
    result = asyncio.run(running)
    assert result.stopped and result.steps == 3 == len(panel.history)
    assert panel.stop_button.disabled and panel.words.value.endswith("stopped")
    assert [trace.name for trace in panel.figure.data][2:] == [
        "gradient, own to one linear",
        "gradient, shared in a layer",
        "gradient, shared by the model",
    ]
    last = result.history[-1]
    assert [trace.y[-1] for trace in panel.figure.data[2:]] == pytest.approx(
        [last[f"grad_norm_{scope}"] for scope in ("module", "layer", "model")]
    )


def test_callbacks_on_other_threads_disturb_nothing(monkeypatch):
    monkeypatch.setattr(training, "SECONDS_BETWEEN_REDRAWS", 0.0)
    panel, failures, done = TrainingPanel(300, ["module", "model"]), [], threading.Event()

    def disturb(act):
        try:
            while not done.is_set():
                act()
        except BaseException as error:
            failures.append(error)

    acts = (panel.stop, panel.picture, panel.table)
    threads = [threading.Thread(target=disturb, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for step in range(1, 26):
        panel.report(entry(step))
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [found["step"] for found in panel.history] == list(panel.figure.data[0].x) == [*range(1, 26)]


def test_an_error_in_training_is_passed_on_and_leaves_the_picture():
    with pytest.raises(RuntimeError, match="diverged"), TrainingPanel(5) as panel:
        panel.report(entry(1, grad_norm_all=1.0))
        raise RuntimeError("training diverged")
    assert list(panel.figure.data[0].x) == [1]


def test_a_picture_takes_the_place_of_the_widgets(monkeypatch):
    """As a notebook stores it: one output, first the widgets, in the end a figure that needs none."""
    monkeypatch.setattr(plotly.io.renderers, "default", "plotly_mimetype")
    shell, sent = InteractiveShell.instance(), []
    monkeypatch.setattr(
        shell.display_pub,
        "publish",
        lambda data, metadata=None, *, transient=None, update=False, **_: sent.append(
            (data, transient["display_id"], update)
        ),
    )
    try:
        with TrainingPanel(5) as panel:
            panel.report(entry(1, grad_norm_all=1.0))
    finally:
        InteractiveShell.clear_instance()
    (first, place, updated), (last, same_place, updated_last) = sent
    assert "application/vnd.jupyter.widget-view+json" in first and not updated
    assert "application/vnd.jupyter.widget-view+json" not in last and updated_last
    assert place == same_place
    title = last["application/vnd.plotly.v1+json"]["layout"]["title"]["text"]
    assert title.startswith("Step 1 of 5")
    assert "<table" in last["text/html"] and "training loss" in last["text/html"]


def test_training_leaves_the_main_thread_to_the_callbacks(clock):
    """ipykernel hands a button's message on where a cell awaits, not where it computes."""
    panel, threads = TrainingPanel(5), []

    def work(steps, report, should_stop):
        threads.append(threading.current_thread())
        pressed = any(should_stop() or threading.Event().wait(0.01) for _ in range(1000))
        report(entry(1, grad_norm_all=1.0))
        return steps, pressed

    async def cell():
        running = asyncio.ensure_future(panel.run(work, 7))
        await asyncio.sleep(0)
        panel.stop_button.click()  # as the kernel would, on the main thread, while the run goes on
        return await running

    assert asyncio.run(cell()) == (7, True)
    assert threads[0] is not threading.main_thread()


def test_an_interrupt_ends_the_run_too(clock):
    panel, began, ended = TrainingPanel(5), threading.Event(), threading.Event()

    def work(report, should_stop):
        began.set()
        while not should_stop():
            threading.Event().wait(0.01)
        ended.set()

    async def cell():
        running = asyncio.ensure_future(panel.run(work))
        assert await asyncio.to_thread(began.wait, 60)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(cell())
    assert ended.wait(60)
