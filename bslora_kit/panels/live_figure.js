// Draws a figure that Python keeps: `drawing` is its JSON, `library` the widget that holds Plotly.js.

const CONFIG = { displaylogo: false }
const started = (globalThis[Symbol.for("bslora_kit.plotly")] ??= new Map()) // version -> promise of Plotly

// Plotly.js is one library for all figures of a page, whatever kernels they belong to.
function plotlyOf(library) {
  const version = library.get("version")
  if (!started.has(version)) started.set(version, start(library.get("packed")))
  return started.get(version)
}

async function start(packed) {
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))
  const source = await new Response(unpacked).text()
  globalThis.PlotlyConfig ??= { MathJaxConfig: "local" } // the page's own MathJax is left as it is
  const parts = ["const module = { exports: {} };", source, "\nexport default module.exports"]
  const url = URL.createObjectURL(new Blob(parts, { type: "text/javascript" }))
  try {
    return (await import(url)).default
  } finally {
    URL.revokeObjectURL(url)
  }
}

// JupyterLab takes arrows and letters on a menu for commands on cells. It looks for this mark from the
// element that has the focus outwards and stops where a command applies, mostly at that element itself.
function keepKeys(el) {
  let panel = el
  for (let box = el; box; box = box.parentElement?.closest(".jupyter-widgets")) panel = box
  panel.addEventListener("focusin", ({ target }) => { target.dataset.lmSuppressShortcuts = "" })
}

// Returns before anything is drawn: a widget that waits for its library here is given up by anywidget.
function render({ model, el, host, signal }) {
  const plot = document.createElement("div")
  plot.role = "img"
  plot.textContent = "The figure is loading."
  el.append(plot)
  let Plotly, width = 0

  function draw() {
    if (!Plotly || !width) return
    const { data, layout } = JSON.parse(model.get("drawing"))
    if (!plot.data) plot.textContent = ""
    Plotly.react(plot, data, { ...layout, width }, CONFIG)
    plot.ariaLabel = layout.title?.text?.replace(/<[^>]*>/g, " ") ?? "figure"
  }

  const observer = new ResizeObserver(([{ contentRect }]) => {
    if (!contentRect.width || contentRect.width === width) return
    if (!width) keepKeys(el) // now in the page, so that the panel around it can be found
    width = contentRect.width
    draw()
  })
  observer.observe(el)
  model.on("change:drawing", draw)

  host.getModel(model.get("library")).then(plotlyOf).then(
    (found) => {
      Plotly = found
      if (!signal.aborted) draw()
    },
    (error) => { plot.textContent = `The figure cannot be drawn: ${error.message}` },
  )

  return () => {
    observer.disconnect()
    Plotly?.purge(plot)
  }
}

export default { render }
