"use strict";
// Starts Plotly once the page is there to read, draws the figures nearest to the reader first, follows the screen's colours
// and the printer's paper, sorts tables, saves CSV.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const NARROW = 640;
  const PAPER = 680; // CSS pixels of an A4 or Letter page within its margins
  const DARK = { // each of these colours is used for one thing only
    "#222222": "#e6e6e6", "#fffffe": "#15181c", "#e6e6e6": "#2f343a", "#8a8a8a": "#9a9ea4", "#c4c4c4": "#4a4f56",
    "#0072B2": "#4aa8e0", "#5B4B8A": "#a793e0", "#7A5C00": "#c9a227",
  };
  const screenIsDark = window.matchMedia("(prefers-color-scheme: dark)");
  const config = { responsive: true, displayModeBar: false };
  const left = Array.from(document.querySelectorAll(".plot"));
  const done = [];
  let printing = false;
  const narrow = () => window.innerWidth < NARROW;
  const coloured = (value) => screenIsDark.matches && !printing
    ? JSON.parse(JSON.stringify(value).replace(/#[0-9a-fA-F]{6}/g, (c) => DARK[c] ?? c)) : structuredClone(value);
  const look = () => `${printing || narrow()} ${screenIsDark.matches && !printing} ${printing}`;
  const draw = (div) => {
    const f = figures[div.dataset.slug];
    let layout = f.wide;
    if (printing) layout = { ...f.wide, width: PAPER };
    else if (narrow()) layout = { ...f.wide, ...f.narrow };
    else if (div.classList.contains("half")) layout = { ...f.wide, ...f.half };
    div.dataset.look = look();
    return Plotly.react(div, coloured(f.data), coloured(layout), config);
  };
  const start = () => { // most of the file: as a script of its own it would run before anything is shown
    if (window.Plotly) return;
    const script = document.createElement("script");
    script.textContent = document.getElementById("plotly").textContent;
    document.head.append(script);
  };
  const away = (div) => {
    const { top, bottom } = div.getBoundingClientRect();
    return Math.max(top - window.innerHeight, -bottom, 0);
  };
  const take = () => {
    left.sort((a, b) => away(a) - away(b));
    done.push(left.shift());
    return draw(done.at(-1));
  };
  const next = () => {
    if (!left.length) { performance.mark("all figures"); document.body.dataset.drawn = "true"; return; }
    take().then(() => { if (done.length === 1) performance.mark("first figure"); setTimeout(next, 0); });
  };
  const again = () => { for (const div of done) if (div.dataset.look !== look()) draw(div); };
  window.addEventListener("load", () => setTimeout(() => { start(); setTimeout(next, 0); }, 0));
  window.addEventListener("beforeprint", () => { start(); printing = true; again(); while (left.length) take(); });
  window.addEventListener("afterprint", () => { printing = false; again(); });
  window.addEventListener("resize", again);
  screenIsDark.addEventListener("change", again);

  const key = (cell) => {
    const raw = cell.dataset.v ?? cell.textContent.trim();
    const number = Number(raw);
    return raw === "" ? null : Number.isNaN(number) ? raw : number;
  };
  for (const table of document.querySelectorAll("table")) {
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach((th, column) => th.firstElementChild.addEventListener("click", () => {
      const down = th.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      th.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = Array.from(table.tBodies[0].rows);
      rows.sort((a, b) => {
        const x = key(a.cells[column]), y = key(b.cells[column]);
        if (x === null || y === null) return (x === null) - (y === null); // what is not there stays last
        const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows);
    }));
  }

  const quoted = (text) => /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  const csv = (table) => {
    const heads = Array.from(table.tHead.rows[0].cells, (th) => th.textContent);
    const rows = Array.from(table.tBodies[0].rows, (row) => Array.from(row.cells));
    const wide = heads.map((_, i) => rows.some((cells) => cells[i].dataset.low !== undefined));
    const line = heads.flatMap((h, i) => wide[i] ? [h, `${h} low`, `${h} high`] : [h]);
    const body = rows.map((cells) => cells.flatMap((c, i) => {
      const value = c.dataset.v ?? c.textContent.trim();
      return wide[i] ? [value, c.dataset.low ?? "", c.dataset.high ?? ""] : [value];
    }));
    return [line, ...body].map((cells) => cells.map(quoted).join(",")).join("\r\n") + "\r\n";
  };
  for (const button of document.querySelectorAll("button.all")) {
    button.addEventListener("click", () => {
      const every = button.closest(".table-block").querySelector("table").classList.toggle("every");
      button.textContent = every ? "Main columns" : "All columns";
    });
  }
  for (const button of document.querySelectorAll("button.csv")) {
    button.addEventListener("click", () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([csv(button.closest(".table-block").querySelector("table"))], { type: "text/csv" }));
      link.download = button.dataset.file;
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }
})();
