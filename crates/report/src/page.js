for (const slider of document.querySelectorAll(".slider")) {
  const range = slider.querySelector("input"), pictures = slider.querySelectorAll("figure");
  const show = () => pictures.forEach((picture, i) => {
    picture.hidden = i !== Number(range.value);
    if (!picture.hidden) range.setAttribute("aria-valuetext", picture.textContent.trim() || picture.querySelector("img").alt);
  });
  slider.querySelector("label").hidden = false;
  range.addEventListener("input", show);
  show();
}
