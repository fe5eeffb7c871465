"use strict";
// Draws the figures one after the other (the page stays responsive), sorts tables, saves them as CSV.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const NARROW = 640;
  const config = { responsive: true, displayModeBar: false };
  const plots = Array.from(document.querySelectorAll(".plot"));
  const narrow = () => window.innerWidth < NARROW;
  const draw = (div) => {
    const f = figures[div.dataset.slug];
    const layout = Object.assign({}, f.wide, narrow() ? f.narrow : {});
    div.dataset.narrow = String(narrow());
    return Plotly.react(div, f.data, structuredClone(layout), config);
  };
  const next = (queue) => {
    if (!queue.length) { document.body.dataset.drawn = "true"; return; }
    draw(queue[0]).then(() => setTimeout(() => next(queue.slice(1)), 0));
  };
  setTimeout(() => next(plots), 0); // after the page is there to read
  window.addEventListener("resize", () => {
    for (const div of plots) if (div.dataset.narrow !== undefined && div.dataset.narrow !== String(narrow())) draw(div);
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
