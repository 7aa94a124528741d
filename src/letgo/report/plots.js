"use strict";
// Puts plotly's figures in the place of the drawings. Where anything it needs is missing, the
// drawings stay; they are also what is printed.
(async () => {
  const plots = JSON.parse(document.getElementById("plots").textContent);
  if (!Object.keys(plots).length || !("DecompressionStream" in window)) return;

  const packed = atob(document.getElementById("plotly").textContent);
  const bytes = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)").matches;

  function themed(plot) {
    const style = getComputedStyle(document.documentElement);
    const [ink, line, card] = ["--ink", "--line", "--card"].map((name) =>
      style.getPropertyValue(name).trim());
    const { data, layout } = JSON.parse(JSON.stringify(plot), (key, value) =>
      key === "color" && value === "ink" ? ink : value);
    for (const [key, axis] of Object.entries(layout)) {
      if (/^[xy]axis/.test(key)) {
        Object.assign(axis, { gridcolor: line, linecolor: line, zerolinecolor: line });
        axis.automargin = true;
        if (axis.title) axis.title.standoff = 8;
      }
    }
    if (layout.title) Object.assign(layout.title, { font: { size: 13 }, x: 0, xref: "paper" });
    const settings = {
      font: { color: ink, size: 12, family: "system-ui, sans-serif" },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 50, r: 10, t: layout.showlegend === false ? 25 : 40, b: 45 },
      legend: { orientation: "h", x: 0, y: 1, xanchor: "left", yanchor: "bottom" },
      hoverlabel: { bgcolor: card, bordercolor: line, font: { color: ink }, align: "left" },
      // A finger that drags wants to scroll the page.
      dragmode: touch ? false : "zoom",
      uirevision: "kept",
      ...layout,
    };
    return [data, settings, { displayModeBar: false, responsive: true }];
  }

  function draw() {
    for (const [name, plot] of Object.entries(plots)) {
      const place = document.getElementById(`plot-${name}`);
      place.parentElement.classList.add("live");
      Plotly.react(place, ...themed(plot));
    }
  }
  draw();
  dark.addEventListener("change", draw);
})();
