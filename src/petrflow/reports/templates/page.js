// Language, sorting, and charts that are drawn when they come into sight: a page of many runs opens at once.
(function () {
  "use strict";
  const root = document.documentElement;

  function inLanguage(value, language) {
    if (Array.isArray(value)) return value.map((item) => inLanguage(item, language));
    if (value && typeof value === "object") {
      const keys = Object.keys(value);
      if (keys.length === 2 && "en" in value && "zh" in value) return value[language];
      return Object.fromEntries(keys.map((key) => [key, inLanguage(value[key], language)]));
    }
    return value;
  }

  const config = {
    background: null,
    font: getComputedStyle(document.body).fontFamily,
    axis: { labelColor: "#5d6880", titleColor: "#5d6880", titleFontWeight: "normal", gridColor: "#eceff4", domainColor: "#b9c1ce", tickColor: "#b9c1ce" },
    title: { color: "#1c2330" },
    legend: { labelColor: "#1c2330" },
    view: { stroke: null },
  };

  function draw(figure) {
    const plot = figure.querySelector(".plot");
    const spec = inLanguage(JSON.parse(figure.querySelector("script").textContent), root.dataset.language);
    plot.setAttribute("aria-label", spec.title.text);
    spec.width = Math.max(200, Math.floor(plot.clientWidth));
    if (figure.view) figure.view.finalize();
    figure.view = new vega.View(vega.parse(vegaLite.compile(spec, { config }).spec), { renderer: "svg", hover: true }).initialize(plot).run();
    figure.drawn = root.dataset.language + spec.width;
    plot.classList.add("drawn");
  }

  const figures = Array.from(document.querySelectorAll("figure.chart"));
  const seen = new Set();
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { seen.add(entry.target); drawIfOld(entry.target); } else seen.delete(entry.target);
    }
  }, { rootMargin: "300px" });
  figures.forEach((figure) => watcher.observe(figure));

  function drawIfOld(figure) {
    const width = Math.max(200, Math.floor(figure.querySelector(".plot").clientWidth));
    if (figure.drawn !== root.dataset.language + width) draw(figure);
  }
  let later = 0;
  window.addEventListener("resize", () => { clearTimeout(later); later = setTimeout(() => seen.forEach(drawIfOld), 150); });
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((details) => { details.open = true; });
    figures.forEach((figure) => { if (!figure.drawn) draw(figure); });
  });

  for (const button of document.querySelectorAll("[data-set-language]")) {
    button.addEventListener("click", () => {
      root.dataset.language = button.dataset.setLanguage;
      root.lang = button.lang;
      try { localStorage.setItem("petrflow-language", button.dataset.setLanguage); } catch (error) { /* a browser may forbid it for files */ }
      seen.forEach(drawIfOld);
    });
  }

  // A cell's figure is its data-value, or its text; cells without a figure stand last in both directions.
  function figureOf(row, column) {
    const cell = row.cells[column];
    const text = cell.dataset.value === undefined ? cell.textContent.trim() : cell.dataset.value;
    const number = text === "" || text === "–" ? NaN : Number(text);
    return { text, number, none: text === "" || text === "–" };
  }
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach((head, column) => {
      head.tabIndex = 0;
      const sort = () => {
        const down = head.getAttribute("aria-sort") !== "descending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = Array.from(table.tBodies[0].rows).map((row) => ({ row, value: figureOf(row, column) }));
        rows.sort((a, b) => {
          if (a.value.none !== b.value.none) return a.value.none ? 1 : -1;
          const order = Number.isNaN(a.value.number) || Number.isNaN(b.value.number)
            ? a.value.text.localeCompare(b.value.text) : a.value.number - b.value.number;
          return down ? -order : order;
        });
        table.tBodies[0].append(...rows.map((item) => item.row));
      };
      head.addEventListener("click", sort);
      head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
    });
  }
})();
