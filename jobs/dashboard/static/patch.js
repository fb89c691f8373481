// Make what is shown like what the server says now, touching only what differs: focus, selection and scrolling stay.

const KEPT = new Set(["open"]);

export function patch(shown, told) {
  if (shown.isEqualNode(told)) return;
  patchAttributes(shown, told);
  if (shown.dataset?.list === undefined || told.dataset?.list === undefined) patchInOrder(shown, told);
  else patchByKey(shown, told);
}

function patchAttributes(shown, told) {
  for (const { name, value } of told.attributes) {
    if (shown.getAttribute(name) !== value) shown.setAttribute(name, value);
  }
  for (const { name } of [...shown.attributes]) {
    if (!told.hasAttribute(name) && !KEPT.has(name)) shown.removeAttribute(name);
  }
}

function patchInOrder(shown, told) {
  const [before, after] = [[...shown.childNodes], [...told.childNodes]];
  after.forEach((node, n) => {
    const there = before[n];
    if (!there) shown.append(node);
    else if (!alike(there, node)) there.replaceWith(node);
    else if (node.nodeType === Node.ELEMENT_NODE) patch(there, node);
    else if (there.nodeValue !== node.nodeValue) there.nodeValue = node.nodeValue;
  });
  before.slice(after.length).forEach((node) => node.remove());
}

const alike = (a, b) => a.nodeName === b.nodeName && a.id === b.id;

// Rows are known by their key. They keep their order while somebody points at them or is in them with the keyboard.
function patchByKey(shown, told) {
  const there = new Map([...shown.children].map((row) => [row.dataset.key, row]));
  const rows = shown.matches(":hover, :focus-within") ? inOrderOf([...there.keys()], [...told.children]) : [...told.children];
  const kept = new Set(rows.map((row) => row.dataset.key));
  for (const [key, row] of there) if (!kept.has(key)) row.remove();
  let at = shown.firstElementChild;
  for (const row of rows) {
    const old = there.get(row.dataset.key);
    if (old) patch(old, row);
    if (old && old === at) at = at.nextElementSibling;
    else shown.insertBefore(old ?? row, at);
  }
}

function inOrderOf(keys, rows) {
  const place = new Map(keys.map((key, n) => [key, n]));
  return rows.sort((a, b) => (place.get(a.dataset.key) ?? Infinity) - (place.get(b.dataset.key) ?? Infinity));
}
