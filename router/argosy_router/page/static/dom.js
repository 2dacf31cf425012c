// Small helpers: elements from a description, and lists that keep their elements, so that focus stays where it is.

export const at = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") element.addEventListener("click", value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Make the children of `parent` those of `items`, by key: what stays is updated in place, and in the items' order. */
export function keep(parent, items, key, create, update) {
  const there = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let before = null;
  for (const item of items) {
    const name = String(key(item));
    let child = there.get(name);
    there.delete(name);
    if (!child) {
      child = create(item);
      child.dataset.key = name;
    }
    const place = before ? before.nextSibling : parent.firstChild;
    if (place !== child) parent.insertBefore(child, place);
    update(child, item);
    before = child;
  }
  for (const child of there.values()) child.remove();
}

export const number = (value) => (value >= 100 ? value.toFixed(0) : value.toFixed(1));
export const percent = (value) => `${Math.round(value * 100)} %`;
export const seconds = (value) => (value < 1 ? `${Math.round(value * 1000)} ms` : `${number(value)} s`);
