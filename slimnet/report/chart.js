for (const chart of document.querySelectorAll(".chart")) {
  const said = chart.querySelector(".said");
  const tell = (event) => {
    const text = event.target.dataset && event.target.dataset.said;
    if (text) said.textContent = text;
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
}
