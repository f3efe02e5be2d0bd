const PAINTED = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size",
  "font-family"];
const SVG = "http://www.w3.org/2000/svg";

/** The chart as it is shown, its title and legend too, as an SVG that needs no page. */
function drawn(chart) {
  const svg = chart.querySelector("svg"), copy = svg.cloneNode(true);
  const painted = (from, to) => {
    const style = getComputedStyle(from);
    for (const name of PAINTED) to.setAttribute(name, style.getPropertyValue(name));
  };
  const copies = copy.querySelectorAll("*");
  svg.querySelectorAll("*").forEach((element, n) => painted(element, copies[n]));
  copy.querySelectorAll(".hidden").forEach((series) => series.remove());
  const { width, height } = svg.viewBox.baseVal;
  const shown = [...chart.querySelectorAll('.legend button[aria-pressed="true"]')];
  const style = getComputedStyle(chart), line = 24;
  const add = (name, attributes, text = "") => {
    const element = document.createElementNS(SVG, name);
    for (const key in attributes) element.setAttribute(key, attributes[key]);
    element.textContent = text;
    return element;
  };
  const words = { fill: style.color, "font-size": 14, "font-family": "system-ui, sans-serif" };
  const size = [width, height + line * (2 + shown.length)];
  copy.prepend(add("rect", { y: -line, width: size[0], height: size[1],
    fill: getComputedStyle(document.body).backgroundColor }));
  copy.append(add("text", { ...words, x: 4, y: -6 }, chart.querySelector(".axis").textContent));
  shown.forEach((button, n) => {
    const place = height + line * (n + 0.8), mark = button.querySelector("path");
    const symbol = mark.cloneNode();
    painted(mark, symbol);
    symbol.setAttribute("transform", `translate(14 ${place - 5})`);
    copy.append(symbol, add("text", { ...words, x: 30, y: place }, button.textContent.trim()));
  });
  copy.setAttribute("xmlns", SVG);
  copy.setAttribute("viewBox", `0 ${-line} ${size[0]} ${size[1]}`);
  copy.setAttribute("width", size[0]);
  copy.setAttribute("height", size[1]);
  return new XMLSerializer().serializeToString(copy);
}

/** The same as pixels, two for each of its units. */
function pixels(chart) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [2 * image.width, 2 * image.height];
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob(resolve, "image/png");
    };
    image.onerror = reject;
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(drawn(chart))}`;
  });
}

const SAVED = {
  svg: (chart) => new Blob([drawn(chart)], { type: "image/svg+xml" }),
  png: pixels,
  csv: (chart) => new Blob([chart.querySelector("template").content.textContent],
    { type: "text/csv" }),
};

async function save(chart, kind) {
  const link = document.createElement("a");
  const title = chart.querySelector("svg").getAttribute("aria-label");
  link.download = `${title.replace(/[^\p{L}\p{N}]+/gu, "-")}.${kind}`;
  link.href = URL.createObjectURL(await SAVED[kind](chart));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

for (const chart of document.querySelectorAll(".chart")) {
  const said = chart.querySelector(".said");
  const tell = (event) => {
    const text = event.target.dataset && event.target.dataset.said;
    if (text) said.textContent = `${event.target.closest(".series").dataset.name}, ${text}`;
  };
  chart.addEventListener("pointerover", tell);
  chart.addEventListener("click", tell);
  for (const button of chart.querySelectorAll(".legend button"))
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", shown);
      chart.querySelector(`.series[data-series="${button.dataset.series}"]`)
        .classList.toggle("hidden", !shown);
    });
  const row = document.createElement("p");
  row.className = "save";
  for (const kind in SAVED) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = kind.toUpperCase();
    button.setAttribute("aria-label", `save as ${kind.toUpperCase()}`);
    button.addEventListener("click", () => save(chart, kind));
    row.append(button);
  }
  chart.append(row);
}
