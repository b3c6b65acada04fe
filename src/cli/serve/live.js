// Puts the page as it is now in place of the one that is shown, each time the server says that it is another one. What
// was open stays open, and the keyboard stays where it was. Without this the page reads the same; it does not move on.
"use strict";
let shown = document.currentScript.dataset.shown;
const place = (element) => element.querySelector("[id]")?.id ?? element.querySelector("summary").textContent;
new EventSource("/events").onmessage = async (event) => {
  if (event.data === shown) return;
  const answer = await fetch("/");
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const open = new Set([...document.querySelectorAll("details[open]")].map(place));
  for (const element of page.querySelectorAll("details")) element.open = open.has(place(element));
  const focused = document.activeElement?.id || document.activeElement?.getAttribute("href");
  shown = page.querySelector("script[data-shown]").dataset.shown;
  document.querySelector("main").replaceWith(page.querySelector("main"));
  if (focused) [...document.querySelectorAll("a, [id]")].find((e) => e.id === focused || e.getAttribute("href") === focused)?.focus({ preventScroll: true });
};
