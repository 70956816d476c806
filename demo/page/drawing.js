// Draws boxes on the picture of the component; `element`, `props` and `watch` are gradio's.
const STEP = 0.01;
const LEAST = 0.01;
let boxes = [];
let start = null;

const within = (value, least, most) => Math.min(Math.max(value, least), most);
const sheet = () => element.querySelector(".owl-sheet");
const negative = () => element.querySelector("input[value=negative]").checked;

function place(event) {
  const { left, top, width, height } = sheet().getBoundingClientRect();
  return [within((event.clientX - left) / width, 0, 1), within((event.clientY - top) / height, 0, 1)];
}

function described({ box, negative }, index) {
  const [left, top, right, bottom] = box.map((share) => Math.round(100 * share));
  const what = negative ? "not this" : "the object";
  return `Box ${index + 1}, ${what}: ${left} to ${right} % from the left, ${top} to ${bottom} % from the top`;
}

function item(one, index) {
  const [left, top, right, bottom] = one.box;
  const node = document.createElement("li");
  node.className = one.negative ? "owl-box owl-negative" : "owl-box";
  node.tabIndex = 0;
  node.dataset.index = index;
  node.setAttribute("aria-label", described(one, index));
  const sides = { left, top, width: right - left, height: bottom - top };
  Object.entries(sides).forEach(([side, share]) => (node.style[side] = `${100 * share}%`));
  const name = document.createElement("span");
  name.textContent = one.negative ? "not this" : "object";
  name.ariaHidden = true;
  node.append(name);
  return node;
}

function show(focused) {
  const list = element.querySelector(".owl-boxes");
  list?.replaceChildren(...boxes.map(item));
  if (focused !== undefined) list.children[focused]?.focus();
}

function keep(changed, focused) {
  boxes = changed;
  props.value = boxes.map((one) => ({ ...one, box: [...one.box] }));
  show(focused);
}

function drawn(event) {
  const [x, y] = place(event);
  const box = [Math.min(x, start[0]), Math.min(y, start[1]), Math.max(x, start[0]), Math.max(y, start[1])];
  return { box, negative: negative() };
}

element.addEventListener("pointerdown", (event) => {
  if (event.button || !event.target.closest(".owl-sheet")) return;
  event.preventDefault();
  sheet().setPointerCapture(event.pointerId);
  start = place(event);
});

element.addEventListener("pointermove", (event) => {
  if (!start) return;
  const kept = boxes;
  boxes = [...kept, drawn(event)];
  show();
  boxes = kept;
});

element.addEventListener("pointerup", (event) => {
  if (!start) return;
  const one = drawn(event);
  const [x0, y0, x1, y1] = one.box;
  start = null;
  if (x1 - x0 < LEAST || y1 - y0 < LEAST) show();
  else keep([...boxes, one], boxes.length);
});

element.addEventListener("pointercancel", () => {
  start = null;
  show();
});

element.addEventListener("click", (event) => {
  const action = event.target.closest("button")?.dataset.action;
  if (action === "add") keep([...boxes, { box: [0.25, 0.25, 0.75, 0.75], negative: negative() }], boxes.length);
  if (action === "clear") keep([]);
});

function moved([x0, y0, x1, y1], x, y) {
  const right = within(x, -x0, 1 - x1);
  const down = within(y, -y0, 1 - y1);
  return [x0 + right, y0 + down, x1 + right, y1 + down];
}

function resized([x0, y0, x1, y1], x, y) {
  return [x0, y0, within(x1 + x, x0 + LEAST, 1), within(y1 + y, y0 + LEAST, 1)];
}

const ARROWS = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };

element.addEventListener("keydown", (event) => {
  const index = Number(event.target.dataset.index ?? NaN);
  if (!boxes[index]) return;
  if (event.key === "Delete" || event.key === "Backspace") {
    keep(boxes.toSpliced(index, 1), Math.max(0, index - 1));
  } else if (ARROWS[event.key]) {
    const change = event.shiftKey ? resized : moved;
    const box = change(boxes[index].box, ...ARROWS[event.key]);
    keep(boxes.with(index, { ...boxes[index], box }), index);
  } else return;
  event.preventDefault();
});

// The page may be told of one picture twice: only another one has no boxes yet.
watch("picture", () => keep([]));
watch("value", () => keep(props.value ?? []));
