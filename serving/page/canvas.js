// `element`, `props` and `trigger` are what Gradio hands to a custom component.
const canvas = element.querySelector("canvas");
const context = canvas.getContext("2d");
let pointer = null;

function clear() {
  context.fillStyle = props.paper;
  context.fillRect(0, 0, canvas.width, canvas.height);
}

function position(event) {
  const box = canvas.getBoundingClientRect();
  return [
    ((event.clientX - box.left) * canvas.width) / box.width,
    ((event.clientY - box.top) * canvas.height) / box.height,
  ];
}

function stroke(event) {
  context.strokeStyle = context.fillStyle = props.ink;
  context.lineWidth = canvas.width / 14;
  context.lineCap = context.lineJoin = "round";
  context.lineTo(...position(event));
  context.stroke();
}

canvas.addEventListener("pointerdown", (event) => {
  pointer = event.pointerId;
  canvas.setPointerCapture(pointer);
  context.beginPath();
  context.moveTo(...position(event));
  stroke(event);
});
canvas.addEventListener("pointermove", (event) => {
  if (event.pointerId === pointer) stroke(event);
});
for (const name of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(name, (event) => {
    if (event.pointerId !== pointer) return;
    pointer = null;
    props.value = canvas.toDataURL("image/png");
    trigger("input");
  });
}
element.querySelector("button").addEventListener("click", () => {
  clear();
  props.value = null;
  trigger("clear");
});
watch("value", () => {
  if (!props.value) clear();
});
clear();
