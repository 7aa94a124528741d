"use strict";
// Sort a table of the class "sortable" by a click on the head of a column.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.ariaSort !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.ariaSort = up ? "ascending" : "descending";
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const compare = new Intl.Collator(undefined, { numeric: true }).compare;
      const sign = up ? 1 : -1;
      const number = (row) => (value(row) === "" ? NaN : Number(value(row)));
      const rows = [...table.tBodies[0].rows];
      const numeric = rows.every((row) => Number.isFinite(number(row)));
      rows.sort((a, b) => sign * (numeric ? number(a) - number(b) : compare(value(a), value(b))));
      table.tBodies[0].append(...rows);
    });
  });
}

// A form of the class "filter" hides the items of its list that do not match all of its fields.
for (const form of document.querySelectorAll("form.filter")) {
  const items = [...document.getElementById(form.dataset.list).children];
  const matches = (item, { name, value }) =>
    !name || !value || (name === "words"
      ? item.textContent.toLowerCase().includes(value.toLowerCase())
      : item.dataset[name] === value);
  const filter = () => {
    for (const item of items) {
      item.hidden = ![...form.elements].every((field) => matches(item, field));
    }
    const visible = items.filter((item) => !item.hidden).length;
    form.querySelector("output").value = `${visible} of ${items.length} shown`;
  };
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  filter();
}
