"use strict";
// A table sorts by the column whose head is pressed: numbers as numbers, largest first; empty cells stay last.
const number = (text) => (text.trim() === "" ? NaN : Number(text));
function compare(a, b, direction) {
  if (a === "" || b === "") return (a === "") - (b === "");
  const [x, y] = [number(a), number(b)];
  return direction * (isNaN(x) || isNaN(y) ? a.localeCompare(b) : x - y);
}
for (const button of document.querySelectorAll("table.sortable thead button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), body = head.closest("table").tBodies[0], column = head.cellIndex;
    const value = (row) => row.cells[column].dataset.value;
    const isNumeric = [...body.rows].some((row) => !isNaN(number(value(row))));
    const before = head.getAttribute("aria-sort");
    const ascending = before ? before === "descending" : !isNumeric;
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const rows = [...body.rows].sort((a, b) => compare(value(a), value(b), ascending ? 1 : -1));
    body.append(...rows);
  });
}
// A link to a cell's command opens what it is folded into.
function unfold() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let fold = target && target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  if (target) target.scrollIntoView();
}
addEventListener("hashchange", unfold);
if (location.hash) unfold();
