"use strict";
// The page is whole without this: it adds the choice of a class and keys for the large image.
document.body.classList.add("scripted");
const shots = [...document.querySelectorAll(".shot")];
const chosen = document.getElementById("class");

function filter() {
  const label = chosen.value;
  for (const shot of shots) {
    shot.hidden = label !== "" && !shot.dataset.classes.split(" ").includes(label);
    for (const path of shot.querySelectorAll("path")) {
      path.classList.toggle("faded", label !== "" && path.dataset.class !== label);
    }
  }
}

function step(by) {
  const seen = shots.filter((shot) => !shot.hidden);
  const at = seen.findIndex((shot) => "#" + shot.id === location.hash);
  if (at < 0) return;
  const next = seen[(at + by + seen.length) % seen.length];
  location.hash = next.id;
  next.querySelector("a").focus();
}

function close() {
  const shot = shots.find((one) => "#" + one.id === location.hash);
  if (!shot) return;
  location.hash = "images";
  shot.querySelector("a").focus();
}

// A click on the large image shows the place three times as large, another shows all of it again.
function zoom(event) {
  const frame = event.currentTarget;
  if ("#" + frame.parentElement.id !== location.hash) return;
  event.preventDefault();
  const box = frame.getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  if (frame.classList.toggle("near")) frame.scrollTo(3 * x - box.width / 2, 3 * y - box.height / 2);
}

if (chosen) chosen.addEventListener("change", filter);
for (const shot of shots) shot.querySelector(".open").addEventListener("click", zoom);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") close();
  if (event.key === "ArrowRight") step(1);
  if (event.key === "ArrowLeft") step(-1);
});
