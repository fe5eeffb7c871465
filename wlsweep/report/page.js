"use strict";
// Starts Plotly once the page is there to read, draws the figures nearest to the reader first, sorts tables, saves CSV.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const NARROW = 640;
  const config = { responsive: true, displayModeBar: false };
  const left = Array.from(document.querySelectorAll(".plot"));
  const done = [];
  const narrow = () => window.innerWidth < NARROW;
  const draw = (div) => {
    const f = figures[div.dataset.slug];
    const layout = Object.assign({}, f.wide, narrow() ? f.narrow : {});
    div.dataset.narrow = String(narrow());
    return Plotly.react(div, f.data, structuredClone(layout), config);
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
  window.addEventListener("load", () => setTimeout(() => { start(); setTimeout(next, 0); }, 0));
  window.addEventListener("beforeprint", () => { start(); while (left.length) take(); });
  window.addEventListener("resize", () => {
    for (const div of done) if (div.dataset.narrow !== String(narrow())) draw(div);
  });

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
