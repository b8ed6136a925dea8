"use strict";
(() => {
  const points = JSON.parse(document.getElementById("points").textContent);
  const canvas = document.querySelector("canvas"), context = canvas.getContext("2d");
  const shown = document.querySelector(".shown");
  const [picture, label, path] = ["img", "b", "span"].map((name) => shown.querySelector(name));
  const MARGIN = 0.06, MIN_PX = 10, MAX_PX = 96, MAX_ZOOM = 200;
  const view = { x: 0.5, y: 0.5, zoom: 1 };
  const images = points.map(() => null);
  let pending = false, chosen = -1, drag = null;

  const side = () => Math.min(canvas.clientWidth, canvas.clientHeight) * (1 - 2 * MARGIN) * view.zoom;
  const toScreen = (point) => [
    (point[0] - view.x) * side() + canvas.clientWidth / 2,
    (point[1] - view.y) * side() + canvas.clientHeight / 2,
  ];
  const size = () => Math.max(MIN_PX, Math.min(MAX_PX, (0.9 * side()) / Math.sqrt(points.length)));

  function load(index) {
    if (!images[index]) {
      images[index] = new Image();
      images[index].addEventListener("load", redraw);
      images[index].src = "data:image/jpeg;base64," + points[index][4];
    }
    return images[index];
  }

  function draw() {
    pending = false;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    context.scale(ratio, ratio);
    const px = size();
    points.forEach((point, index) => {
      const [x, y] = toScreen(point);
      if (x < -px || y < -px || x > canvas.clientWidth + px || y > canvas.clientHeight + px) return;
      const image = load(index);
      if (!image.complete || !image.naturalWidth) return;
      const scale = px / Math.max(image.naturalWidth, image.naturalHeight);
      const width = image.naturalWidth * scale, height = image.naturalHeight * scale;
      context.drawImage(image, x - width / 2, y - height / 2, width, height);
      if (index === chosen) {
        context.strokeStyle = getComputedStyle(document.body).color;
        context.lineWidth = 2;
        context.strokeRect(x - width / 2, y - height / 2, width, height);
      }
    });
  }

  function redraw() {
    if (!pending) {
      pending = true;
      requestAnimationFrame(draw);
    }
  }

  function choose(index) {
    if (index === chosen) return;
    chosen = index;
    shown.hidden = index < 0;
    if (index >= 0) {
      picture.src = "data:image/jpeg;base64," + points[index][4];
      label.textContent = points[index][3];
      path.textContent = points[index][2];
    }
    redraw();
  }

  function nearest(x, y) {
    let best = -1, least = size() / 2;
    points.forEach((point, index) => {
      const [px, py] = toScreen(point);
      const distance = Math.max(Math.abs(px - x), Math.abs(py - y));
      if (distance <= least) [best, least] = [index, distance];
    });
    return best;
  }

  function zoom(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
    const before = side();
    view.zoom = Math.max(0.5, Math.min(MAX_ZOOM, view.zoom * factor));
    const change = 1 / before - 1 / side();
    view.x += (x - canvas.clientWidth / 2) * change;
    view.y += (y - canvas.clientHeight / 2) * change;
    redraw();
  }

  function move(x, y) {
    view.x += x / side();
    view.y += y / side();
    redraw();
  }

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    drag = [event.offsetX, event.offsetY];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (drag) {
      move(drag[0] - event.offsetX, drag[1] - event.offsetY);
      drag = [event.offsetX, event.offsetY];
    } else choose(nearest(event.offsetX, event.offsetY));
  });
  canvas.addEventListener("pointerup", () => { drag = null; });
  canvas.addEventListener("keydown", (event) => {
    const step = 60;
    const actions = {
      ArrowLeft: () => move(-step, 0), ArrowRight: () => move(step, 0),
      ArrowUp: () => move(0, -step), ArrowDown: () => move(0, step),
      "+": () => zoom(1.3), "=": () => zoom(1.3), "-": () => zoom(1 / 1.3),
      0: () => { Object.assign(view, { x: 0.5, y: 0.5, zoom: 1 }); redraw(); },
    };
    if (actions[event.key]) {
      event.preventDefault();
      actions[event.key]();
      choose(nearest(canvas.clientWidth / 2, canvas.clientHeight / 2));
    }
  });
  addEventListener("resize", redraw);
  redraw();
})();
