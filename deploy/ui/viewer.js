// Shows one or two pictures. Zoom is in screen pixels per image pixel; 1 shows native pixels.

function unpack(data) {
  const bytes = data instanceof Uint8Array ? data : new Uint8Array(data);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const start = 4 + view.getUint32(0, true);
  const pictures = JSON.parse(new TextDecoder().decode(bytes.subarray(4, start)));
  const part = (place) => bytes.subarray(start + place[0], start + place[0] + place[1]);
  return pictures.map((p) => ({ ...p, image: part(p.image), layer: p.layer && part(p.layer) }));
}

function sameBytes(a, b) {
  if (!a || !b || a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

// Gives an <img> new bytes, and frees the old ones; nothing happens when they are the same.
function setImage(img, bytes) {
  if (sameBytes(img.shownBytes, bytes)) return;
  if (img.src.startsWith("blob:")) URL.revokeObjectURL(img.src);
  img.shownBytes = bytes;
  img.src = URL.createObjectURL(new Blob([bytes]));
}

function button(bar, text, label, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.setAttribute("aria-label", label);
  made.title = label;
  made.addEventListener("click", act);
  bar.append(made);
  return made;
}

class Viewer {
  constructor(root) {
    this.root = root;
    this.zoom = null; // null fits the picture into its pane
    this.faces = true;
    this.bar = document.createElement("div");
    this.bar.className = "bar";
    this.bar.setAttribute("role", "toolbar");
    this.bar.setAttribute("aria-label", "Picture");
    this.fitButton = button(this.bar, "Fit", "Fit the picture into the page", () => this.setZoom(null));
    this.nativeButton = button(this.bar, "1:1", "Native pixels: one image pixel is one screen pixel", () => this.setZoom(1));
    button(this.bar, "\u2212", "Zoom out", () => this.setZoom(this.shownZoom() / 1.5));
    button(this.bar, "+", "Zoom in", () => this.setZoom(this.shownZoom() * 1.5));
    this.facesButton = button(this.bar, "Faces", "Show the boxes of faces", () => {
      this.faces = !this.faces;
      this.layOut();
    });
    this.output = document.createElement("output");
    this.bar.append(this.output);
    this.panes = document.createElement("div");
    this.panes.className = "panes";
    root.append(this.bar, this.panes);
    this.observer = new ResizeObserver(() => this.layOut());
    this.observer.observe(root);
  }

  update(pictures) {
    const identity = (p) => `${p.width}x${p.height} ${p.alt}`;
    if (this.pictures && identity(this.pictures[0]) !== identity(pictures[0])) this.zoom = null;
    this.pictures = pictures;
    while (this.panes.children.length > pictures.length) this.panes.lastChild.remove();
    while (this.panes.children.length < pictures.length) this.panes.append(this.makePane());
    this.panes.classList.toggle("two", pictures.length > 1);
    pictures.forEach((picture, i) => this.fill(this.panes.children[i], picture));
    this.facesButton.hidden = !pictures.some((p) => p.faces.length);
    this.layOut();
  }

  makePane() {
    const pane = document.createElement("div");
    pane.className = "pane";
    pane.tabIndex = 0;
    pane.setAttribute("role", "group");
    pane.innerHTML = '<div class="sheet"><img class="picture"><img class="layer" hidden></div>';
    pane.addEventListener("scroll", () => this.scrollOthers(pane));
    let from = null;
    pane.addEventListener("pointerdown", (event) => {
      if (event.pointerType !== "mouse" || event.button !== 0) return; // fingers scroll by themselves
      from = [event.clientX + pane.scrollLeft, event.clientY + pane.scrollTop];
      pane.setPointerCapture(event.pointerId);
      pane.classList.add("dragging");
    });
    pane.addEventListener("pointermove", (event) => {
      if (from) pane.scrollTo(from[0] - event.clientX, from[1] - event.clientY);
    });
    for (const name of ["pointerup", "pointercancel"]) {
      pane.addEventListener(name, () => {
        from = null;
        pane.classList.remove("dragging");
      });
    }
    return pane;
  }

  fill(pane, picture) {
    const sheet = pane.firstChild;
    const [image, layer] = sheet.querySelectorAll("img");
    setImage(image, picture.image);
    image.alt = picture.alt;
    image.draggable = layer.draggable = false;
    layer.hidden = !picture.layer;
    if (picture.layer) setImage(layer, picture.layer);
    layer.alt = picture.layerAlt;
    layer.style.opacity = picture.opacity;
    pane.setAttribute("aria-label", `${picture.alt}. Scroll with the arrow keys.`);
    sheet.querySelectorAll(".face").forEach((face) => face.remove());
    for (const face of picture.faces) {
      const [x, y, width, height] = face.box;
      const box = document.createElement("div");
      box.className = y < picture.height * 0.06 ? "face top" : "face";
      box.setAttribute("role", "img");
      box.setAttribute("aria-label", face.spoken);
      box.style.left = `${(100 * x) / picture.width}%`;
      box.style.top = `${(100 * y) / picture.height}%`;
      box.style.width = `${(100 * width) / picture.width}%`;
      box.style.height = `${(100 * height) / picture.height}%`;
      const label = document.createElement("span");
      label.textContent = face.label;
      box.append(label);
      sheet.append(box);
    }
  }

  fitScale(pane, picture) {
    const height = Math.max(200, window.innerHeight * 0.66);
    return Math.min((pane.clientWidth || 300) / picture.width, height / picture.height, 2);
  }

  shownZoom() {
    const fit = this.fitScale(this.panes.children[0], this.pictures[0]) * window.devicePixelRatio;
    return this.zoom === null ? fit : this.zoom;
  }

  setZoom(zoom) {
    this.zoom = zoom === null ? null : Math.min(16, Math.max(0.05, zoom));
    this.layOut();
  }

  layOut() {
    if (!this.pictures || !this.pictures.length) return;
    this.pictures.forEach((picture, i) => {
      const pane = this.panes.children[i];
      const sheet = pane.firstChild;
      const fit = this.fitScale(pane, picture);
      const scale = this.zoom === null ? fit : this.zoom / window.devicePixelRatio;
      const before = sheet.scale || scale;
      const middle = [pane.scrollLeft + pane.clientWidth / 2, pane.scrollTop + pane.clientHeight / 2];
      sheet.style.width = `${picture.width * scale}px`;
      sheet.style.height = `${picture.height * scale}px`;
      pane.style.height = `${Math.ceil(picture.height * fit)}px`;
      pane.style.overflow = this.zoom === null ? "hidden" : "auto";
      if (before !== scale) {
        pane.scrollLeft = (middle[0] * scale) / before - pane.clientWidth / 2;
        pane.scrollTop = (middle[1] * scale) / before - pane.clientHeight / 2;
      }
      sheet.scale = scale;
      sheet.classList.toggle("large", scale * window.devicePixelRatio > 1.01);
      sheet.querySelectorAll(".face").forEach((face) => (face.hidden = !this.faces));
    });
    this.fitButton.setAttribute("aria-pressed", this.zoom === null);
    this.nativeButton.setAttribute("aria-pressed", this.zoom === 1);
    this.facesButton.setAttribute("aria-pressed", this.faces);
    const percent = Math.round(this.shownZoom() * 100);
    this.output.textContent = `${percent} %`;
  }

  // Two panes show the same part of their pictures.
  scrollOthers(pane) {
    const share = (position, whole, part) => (whole > part ? position / (whole - part) : 0);
    const x = share(pane.scrollLeft, pane.scrollWidth, pane.clientWidth);
    const y = share(pane.scrollTop, pane.scrollHeight, pane.clientHeight);
    for (const other of this.panes.children) {
      if (other === pane) continue;
      const left = x * (other.scrollWidth - other.clientWidth);
      const top = y * (other.scrollHeight - other.clientHeight);
      if (Math.abs(other.scrollLeft - left) > 1 || Math.abs(other.scrollTop - top) > 1) other.scrollTo(left, top);
    }
  }
}

export default function ({ parentElement, data }) {
  const root = parentElement.querySelector(".viewer");
  if (!root.viewer) root.viewer = new Viewer(root);
  root.viewer.observer.observe(root);
  if (data) root.viewer.update(unpack(data));
  return () => root.viewer && root.viewer.observer.disconnect();
}
