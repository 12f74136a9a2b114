// The few things that are done to elements; textContent only: names come from strangers' machines.
const UNKNOWN = "unknown";

export const at = (id) => document.getElementById(id);

export const put = (id, text) => {
  const box = at(id);
  // Only what changed is touched, so that a selection and a reader's place stay.
  if (box.textContent !== (text ?? UNKNOWN)) box.textContent = text ?? UNKNOWN;
};

export const element = (name, fields = {}) => Object.assign(document.createElement(name), fields);

export const badge = (text, state) => element("span", {
  className: `badge ${/^[a-z]+$/.test(state) ? state : ""}`, textContent: text,
});
