// Writes to the page. What is unchanged is left alone, so that a selection or a focus survives.
// Values enter as text only: some peer wrote them.

import { DASH } from "/static/text.js";

export const page = (id) => document.getElementById(id);

export function write(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

export function show(element, shown) {
  if (element.hidden === shown) element.hidden = !shown;
}

export function child(parent, index, tag) {
  const there = parent.children[index];
  if (there && there.localName === tag) return there;
  const made = document.createElement(tag);
  if (there) there.replaceWith(made);
  else parent.append(made);
  return made;
}

export function trim(parent, length) {
  while (parent.children.length > length) parent.lastElementChild.remove();
}

// One cell: a text, or {text, href, mark} for a link and a small word behind it, either may lack.
function cell(element, value) {
  const { text = value, href = null, mark = "" } = typeof value === "object" ? value : {};
  const inner = child(element, 0, href === null ? "span" : "a");
  if (href !== null && inner.getAttribute("href") !== href) inner.setAttribute("href", href);
  write(inner, text);
  if (mark !== "") {
    const behind = child(element, 1, "span");
    behind.className = "mark";
    write(behind, mark);
  }
  trim(element, mark === "" ? 1 : 2);
}

// A table: columns are [title, read(row), is it a number]; the first column names the row.
export function table(id, columns, rows, empty) {
  const element = page(id);
  const head = child(child(element, 0, "thead"), 0, "tr");
  const body = child(element, 1, "tbody");
  show(head.parentElement, rows.length > 0);
  columns.forEach(([title, , number], index) => {
    const th = child(head, index, "th");
    th.scope = "col";
    th.className = number ? "number" : "";
    write(th, title);
  });
  trim(head, columns.length);
  rows.forEach((row, at) => {
    const tr = child(body, at, "tr");
    columns.forEach(([title, read, number], index) => {
      const element = child(tr, index, index === 0 ? "th" : "td");
      const value = read(row);
      if (index === 0) element.scope = "row";
      else element.dataset.label = title;
      element.className = [number ? "number" : "", value === DASH ? "blank" : ""].join(" ").trim();
      element.removeAttribute("colspan");
      cell(element, value);
    });
    trim(tr, columns.length);
  });
  if (rows.length === 0) {
    const tr = child(body, 0, "tr");
    const td = child(tr, 0, "td");
    td.className = "empty";
    td.colSpan = columns.length;
    cell(td, empty);
    trim(tr, 1);
  }
  trim(body, Math.max(rows.length, 1));
}

// A description list: entries are [title, value, smaller text below it].
export function facts(id, entries) {
  const element = page(id);
  entries.forEach(([title, value, more], index) => {
    const entry = child(element, index, "div");
    write(child(entry, 0, "dt"), title);
    const dd = child(entry, 1, "dd");
    write(child(dd, 0, "span"), value);
    if (more !== undefined) {
      const small = child(dd, 1, "span");
      small.className = "more";
      write(small, more);
    }
    trim(dd, more === undefined ? 1 : 2);
  });
  trim(element, entries.length);
}
