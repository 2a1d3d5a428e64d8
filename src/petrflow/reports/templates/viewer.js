// Plays the scenes of data/*.js. Canvas by hand: a box is twelve lines through one 3x4 matrix, a click a point in a polygon; a library
// for 3D would bring a megabyte and want WebGL, which remote desktops and machines without a graphics card do not have.
const petrflow = (function () {
  "use strict";
  const $ = (selector) => document.querySelector(selector);
  const root = document.documentElement;
  // Okabe and Ito's colours; what is missed and what only one of two sets has is dashed as well.
  const KINDS = {
    found: { color: "#009e73", width: 1.4, dash: [] },
    missed: { color: "#f0a800", width: 2, dash: [6, 4] },
    right: { color: "#56b4e9", width: 1.6, dash: [] },
    false: { color: "#ff6a1f", width: 1.8, dash: [] },
    unlabelled: { color: "#56b4e9", width: 1.8, dash: [] },
    ignored: { color: "#8d95a3", width: 1, dash: [2, 3] },
    both: { color: "#009e73", width: 1.6, dash: [] },
    gained: { color: "#56b4e9", width: 2.4, dash: [] },
    lost: { color: "#e07ab8", width: 2.4, dash: [6, 4] },
    neither: { color: "#f0a800", width: 2, dash: [2, 4] },
    false_first: { color: "#ff6a1f", width: 1.4, dash: [3, 3] },
    false_second: { color: "#ff6a1f", width: 2.2, dash: [] },
  };
  const EDGES = [[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7], [0, 2], [1, 3]];
  const NEAR = 0.1; // m; what is nearer to the camera is cut off
  const scenes = new Map(); // number -> frames, as data/scene-N.js gave them
  let index = null;
  const state = { scene: 0, frame: 0, set: 0, compare: -1, score: 0.3, classes: new Set(), truth: true, detections: true, picked: null, playing: false };
  const seen = { frames: 0, missing: 0, small: 0, last: 0 }; // for the benchmark and the tests

  const word = (key, values = {}) =>
    window.petrflowWords[key][root.dataset.language].replace(/\{(\w+)\}/g, (_, name) => values[name]);
  const inLanguage = (pair) => (typeof pair === "object" ? pair[root.dataset.language] : pair);
  const frames = () => scenes.get(state.scene) || [];
  const frame = () => frames()[state.frame];

  // ------------------------------------------------------------------------------------------------------ data and pictures

  function wantScene(number) {
    if (scenes.has(number) || number < 0 || number >= index.scenes.length || $(`script[data-scene="${number}"]`)) return;
    const script = document.createElement("script");
    script.dataset.scene = number;
    script.src = `data/scene-${number}.js`;
    script.onerror = () => notice(word("viewer_scene_missing", { name: index.scenes[number].name }));
    document.head.append(script);
  }

  // Pictures are elements under the canvases: the browser decodes them beside the script, and no larger than they are shown.
  const pictures = new Map(); // path -> Image
  const MOST_PICTURES = 1500;
  function picture(path) {
    let image = pictures.get(path);
    if (!image) {
      image = new Image();
      image.decoding = "sync";
      image.alt = "";
      image.src = index.pictures + path;
      const done = (failed) => {
        Object.assign(image, { done: true, failed });
        if (failed) { seen.missing += 1; notice(word("viewer_no_pictures")); }
        ask();
      };
      // Not image.decode(): that decodes the whole picture, where drawing it small decodes a part.
      image.onload = () => done(false);
      image.onerror = () => done(true);
      if (pictures.size >= MOST_PICTURES) pictures.delete(pictures.keys().next().value);
      pictures.set(path, image);
    }
    return image;
  }
  // While nobody asks for anything, the scene's pictures are kept as small as they are shown: they need no decoding after that.
  const small = new Map(); // path -> ImageBitmap, the oldest first
  const MOST_BYTES = 256e6;
  let smallBytes = 0, warming = 0;
  function forgetSmall(path) {
    const bitmap = small.get(path);
    smallBytes -= bitmap.width * bitmap.height * 4;
    bitmap.close();
    small.delete(path);
  }
  function warm() {
    clearTimeout(warming);
    warming = setTimeout(warmOne, performance.now() - seen.last < 120 ? 120 : 0);
  }
  function warmOne() {
    const list = frames(), shown = state.frame;
    for (let k = 0; k < list.length; k += 1) {
      const one = list[(shown + k) % list.length];
      for (const [number, [path, width, height]] of one.cameras.entries()) {
        if (small.has(path)) continue;
        const image = picture(path), ratio = window.devicePixelRatio || 1;
        if (!image.done) return; // its arrival asks again
        if (image.failed || !views[number].width) continue;
        const w = Math.round(views[number].width * ratio), h = Math.round((w * height) / width);
        if (smallBytes + w * h * 4 > MOST_BYTES) {
          const scene = new Set(list.flatMap((frame) => frame.cameras.map((camera) => camera[0])));
          const old = [...small.keys()].find((known) => !scene.has(known));
          if (old === undefined) return;
          forgetSmall(old);
        }
        createImageBitmap(image, { resizeWidth: w, resizeHeight: h, resizeQuality: "medium" }).then((bitmap) => {
          if (small.has(path)) forgetSmall(path);
          small.set(path, bitmap);
          smallBytes += w * h * 4;
          seen.small = small.size;
          warm();
        }, () => {}); // the picture itself is shown then
        return;
      }
    }
  }

  const ready = (one) => one.cameras.map((camera) => picture(camera[0])).every((image) => image.done);

  // ------------------------------------------------------------------------------------------------------------ what a box is

  // A labelled box: x y z w l h yaw vx vy, class, counts, points. A detection: x … vy, class, score, partner.
  const shownClass = (label) => state.classes.has(label);
  const shownScore = (box) => box[10] >= state.score;

  function hits(set, one) {
    const taken = new Set();
    for (const box of one.sets[set] || []) if (box[11] >= 0 && shownScore(box)) taken.add(box[11]);
    return taken;
  }

  // Return what is to be drawn: {box, kind, truth (bool), number}.
  function items(one) {
    const list = [];
    const comparing = state.compare >= 0 && state.compare !== state.set;
    const second = index.sets.length ? hits(state.set, one) : new Set();
    const first = comparing ? hits(state.compare, one) : null;
    if (state.truth) {
      one.truth.forEach((box, number) => {
        if (!shownClass(box[9])) return;
        let kind = "ignored";
        if (box[10]) {
          if (!index.sets.length) kind = "found";
          else if (!comparing) kind = second.has(number) ? "found" : "missed";
          else kind = second.has(number) ? (first.has(number) ? "both" : "gained") : first.has(number) ? "lost" : "neither";
        }
        list.push({ box, kind, truth: true, number });
      });
    }
    if (state.detections) {
      const add = (set, name) => (one.sets[set] || []).forEach((box, number) => {
        if (!shownClass(box[9]) || !shownScore(box)) return;
        const kind = !index.labelled ? "unlabelled" : box[11] === -2 ? "ignored" : box[11] === -1 ? name : "right";
        if (comparing && kind !== name) return;
        list.push({ box, kind, truth: false, number, set });
      });
      if (comparing) { add(state.compare, "false_first"); add(state.set, "false_second"); } else add(state.set, "false");
    }
    const order = ["ignored", "found", "both", "unlabelled", "right", "neither", "false_first", "false", "false_second", "lost", "gained", "missed"];
    return list.sort((a, b) => order.indexOf(a.kind) - order.indexOf(b.kind));
  }

  function corners(box) {
    const [x, y, z, w, l, h, yaw] = box;
    const cos = Math.cos(yaw), sin = Math.sin(yaw), points = [];
    for (const ahead of [l / 2, -l / 2]) {
      for (const [left, up] of [[w / 2, h / 2], [-w / 2, h / 2], [-w / 2, -h / 2], [w / 2, -h / 2]]) {
        points.push([x + cos * ahead - sin * left, y + sin * ahead + cos * left, z + up]);
      }
    }
    return points;
  }
  const same = (item, picked) => picked && item.truth === picked.truth && item.number === picked.number && (item.truth || item.set === picked.set);

  // ---------------------------------------------------------------------------------------------------------------- drawing

  function stroke(context, lines, style, factor, dark = true) {
    context.lineJoin = "round";
    context.beginPath();
    for (const [a, b] of lines) { context.moveTo(a[0], a[1]); context.lineTo(b[0], b[1]); }
    context.setLineDash([]);
    if (dark) {
      context.strokeStyle = "rgba(0,0,0,.4)";
      context.lineWidth = (style.width + 1.4) * factor;
      context.stroke();
    }
    context.setLineDash(style.dash.map((part) => part * factor));
    context.strokeStyle = style.color;
    context.lineWidth = style.width * factor;
    context.stroke();
    context.setLineDash([]);
  }
  const styleOf = (item) => same(item, state.picked) ? { ...KINDS[item.kind], color: "#ffffff", width: 3, dash: [] } : KINDS[item.kind];

  // Camera coordinates times depth, so that an edge can be cut where it passes the camera.
  const through = (m, p) => [0, 4, 8].map((k) => m[k] * p[0] + m[k + 1] * p[1] + m[k + 2] * p[2] + m[k + 3]);

  function project(box, camera, scale) {
    const matrix = camera.slice(3);
    const points = corners(box).map((point) => through(matrix, point));
    if (!points.some((p) => p[2] > NEAR)) return null;
    const flat = (p) => [(p[0] / p[2]) * scale, (p[1] / p[2]) * scale];
    const lines = [];
    for (const [i, j] of EDGES) {
      let a = points[i], b = points[j];
      if (a[2] <= NEAR && b[2] <= NEAR) continue;
      if (a[2] <= NEAR || b[2] <= NEAR) {
        const t = (NEAR - a[2]) / (b[2] - a[2]);
        const cut = [a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1]), NEAR];
        if (a[2] <= NEAR) a = cut; else b = cut;
      }
      lines.push([flat(a), flat(b)]);
    }
    const xs = lines.flatMap(([a, b]) => [a[0], b[0]]), ys = lines.flatMap(([a, b]) => [a[1], b[1]]);
    const bounds = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
    if (bounds[2] < 0 || bounds[3] < 0 || bounds[0] > camera[1] * scale || bounds[1] > camera[2] * scale) return null;
    return { lines, bounds };
  }

  function fit(canvas, width, height) {
    const ratio = window.devicePixelRatio || 1;
    const w = Math.max(1, Math.round(width * ratio)), h = Math.max(1, Math.round(height * ratio));
    if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
    return ratio;
  }

  function drawCamera(view, camera, list) {
    const canvas = view.canvas;
    const ratio = fit(canvas, view.width, (view.width * camera[2]) / camera[1]);
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    const image = picture(camera[0]), bitmap = small.get(camera[0]);
    const below = bitmap || image.failed ? null : image;
    if (view.image !== below) {
      if (view.image) view.image.remove();
      view.image = below;
      if (below) view.holder.prepend(below);
    }
    if (bitmap) context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const scale = canvas.width / camera[1];
    view.hits = [];
    for (const item of list) {
      const found = project(item.box, camera, scale);
      if (!found) continue;
      stroke(context, found.lines, styleOf(item), ratio);
      view.hits.push({ item, bounds: found.bounds });
    }
  }

  const plan = { reach: 55, canvas: null, hits: [] };
  function drawPlan(list) {
    const canvas = plan.canvas, width = canvas.clientWidth, height = canvas.clientHeight;
    const ratio = fit(canvas, width, height);
    const context = canvas.getContext("2d", { alpha: false });
    context.fillStyle = "#1a1f28";
    context.fillRect(0, 0, canvas.width, canvas.height);
    // Ahead and behind as far as the reach; to the sides at least half of it.
    const scale = Math.min(canvas.height / (2 * plan.reach), canvas.width / plan.reach);
    // The vehicle looks along the lidar's y axis: up on the screen.
    const at = (x, y) => [canvas.width / 2 + x * scale, canvas.height / 2 - y * scale];
    context.strokeStyle = context.fillStyle = "#3a4352";
    context.lineWidth = ratio;
    context.font = `${11 * ratio}px system-ui, sans-serif`;
    const [cx, cy] = at(0, 0);
    const step = plan.reach > 60 ? 20 : plan.reach > 25 ? 10 : 5;
    for (let radius = step; radius * scale < Math.hypot(canvas.width, canvas.height) / 2; radius += step) {
      context.beginPath();
      context.arc(cx, cy, radius * scale, 0, 2 * Math.PI);
      context.stroke();
      context.fillStyle = "#7a8598";
      context.fillText(`${radius} m`, cx + 3 * ratio, cy - radius * scale - 3 * ratio);
    }
    context.fillStyle = "#cfd6e2";
    context.beginPath();
    [[0, 2.4], [0.9, 0.6], [0.9, -2.2], [-0.9, -2.2], [-0.9, 0.6]].forEach(([x, y], k) => context[k ? "lineTo" : "moveTo"](...at(x, y)));
    context.fill();
    plan.hits = [];
    for (const item of list) {
      const [x, y, , w, l, , yaw, vx, vy] = item.box;
      const cos = Math.cos(yaw), sin = Math.sin(yaw);
      const place = (ahead, left) => at(x + cos * ahead - sin * left, y + sin * ahead + cos * left);
      const square = [place(l / 2, w / 2), place(l / 2, -w / 2), place(-l / 2, -w / 2), place(-l / 2, w / 2)];
      const lines = square.map((point, k) => [point, square[(k + 1) % 4]]);
      lines.push([place(0, 0), place(l / 2 + 0.6, 0)]);
      if (vx !== null && Math.hypot(vx, vy) > 0.3) lines.push([at(x, y), at(x + vx, y + vy)]);
      stroke(context, lines, styleOf(item), 0.75 * ratio, false);
      const xs = square.map((p) => p[0]), ys = square.map((p) => p[1]), edge = 3 * ratio;
      plan.hits.push({ item, bounds: [Math.min(...xs) - edge, Math.min(...ys) - edge, Math.max(...xs) + edge, Math.max(...ys) + edge] });
    }
  }

  const stripCounts = { key: "", list: [] };
  // Missed boxes above the line, false ones below, a bar a frame.
  function drawStrip() {
    const canvas = $("#strip");
    const ratio = fit(canvas, canvas.clientWidth, canvas.clientHeight);
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!index.labelled || !index.sets.length) return;
    const key = [state.scene, state.set, state.score, ...state.classes].join();
    if (stripCounts.key !== key) Object.assign(stripCounts, { key, list: frames().map(countsOf) });
    const counts = stripCounts.list;
    const most = Math.max(1, ...counts.map((count) => Math.max(count.missed, count.false)));
    const inset = 8 * ratio, width = (canvas.width - 2 * inset) / Math.max(1, counts.length - 1), bar = Math.max(1, Math.min(width * 0.7, 12 * ratio));
    counts.forEach((count, k) => {
      const x = inset + k * width - bar / 2, middle = canvas.height / 2, unit = canvas.height / 2 / most;
      context.globalAlpha = k === state.frame ? 1 : 0.6;
      context.fillStyle = KINDS.missed.color;
      context.fillRect(x, middle - count.missed * unit, bar, count.missed * unit);
      context.fillStyle = KINDS.false.color;
      context.fillRect(x, middle, bar, count.false * unit);
    });
    context.globalAlpha = 1;
  }
  function countsOf(one) {
    const taken = hits(state.set, one);
    let found = 0, missed = 0, wrong = 0;
    one.truth.forEach((box, number) => { if (box[10] && shownClass(box[9])) { if (taken.has(number)) found += 1; else missed += 1; } });
    for (const box of one.sets[state.set] || []) if (box[11] === -1 && shownScore(box) && shownClass(box[9])) wrong += 1;
    return { found, missed, false: wrong };
  }

  // ------------------------------------------------------------------------------------------------------------ the loop

  let asked = false;
  function ask() { if (!asked) { asked = true; requestAnimationFrame(present); } }

  // Draw the frame that is wanted once all its pictures are there: boxes never lie over the pictures of another moment.
  function present() {
    asked = false;
    const one = frame();
    if (!one) { wantScene(state.scene); return; }
    if (!ready(one)) return; // the last picture asks again
    const list = items(one);
    one.cameras.forEach((camera, k) => drawCamera(views[k], camera, list));
    drawPlan(list);
    drawLegend(list);
    showPicked(one);
    $("#where").textContent = `${state.frame + 1} / ${frames().length} · ${((one.time - frames()[0].time) / 1e6).toFixed(1)} s`;
    $("#frame").value = state.frame + 1;
    seen.frames += 1;
    seen.last = performance.now();
    if (!seen.first) seen.first = performance.now();
    seen.shown = `${state.scene}/${state.frame}`;
    remember();
    // What comes next is fetched while this is looked at.
    for (let k = 1; k <= 4; k += 1) { const next = frames()[state.frame + k]; if (next) next.cameras.forEach((camera) => picture(camera[0])); }
    if (state.frame > frames().length - 4) wantScene(state.scene + 1);
    warm();
  }

  let remembering = 0;
  function remember() {
    clearTimeout(remembering);
    remembering = setTimeout(() => { try { history.replaceState(null, "", link()); } catch (error) { /* a browser may forbid it for files */ } }, 300);
  }
  function link() {
    const set = index.sets[state.set], other = index.sets[state.compare];
    const parts = [`scene=${encodeURIComponent(index.scenes[state.scene].name)}`, `frame=${state.frame + 1}`, `score=${state.score}`];
    if (set) parts.push(`set=${set.key}`);
    if (other) parts.push(`compare=${other.key}`);
    return "#" + parts.join("&");
  }
  function follow() {
    const wanted = new URLSearchParams(location.hash.slice(1));
    const scene = index.scenes.findIndex((one) => one.name === wanted.get("scene"));
    if (scene >= 0) state.scene = scene;
    const number = (key, low, high, fallback) => { const value = parseFloat(wanted.get(key)); return value >= low && value <= high ? value : fallback; };
    state.frame = number("frame", 1, index.scenes[state.scene] ? index.scenes[state.scene].frames : 1, 1) - 1;
    state.score = number("score", 0, 1, state.score);
    const set = (key) => index.sets.findIndex((one) => one.key === wanted.get(key));
    if (set("set") >= 0) state.set = set("set");
    state.compare = set("compare");
  }

  // ----------------------------------------------------------------------------------------------------------------- aside

  function swatch(style) {
    return `<svg width="26" height="10"><line x1="1" y1="5" x2="25" y2="5" stroke="${style.color}" stroke-width="${Math.max(2.5, style.width)}" stroke-dasharray="${style.dash.join(" ")}"/></svg>`;
  }
  function drawLegend(list) {
    const comparing = state.compare >= 0 && state.compare !== state.set;
    const kinds = !index.sets.length ? ["found", "ignored"] : !index.labelled ? ["unlabelled"]
      : comparing ? ["both", "gained", "lost", "neither", "false_second", "false_first", "ignored"] : ["found", "missed", "right", "false", "ignored"];
    const counts = Object.fromEntries(kinds.map((kind) => [kind, 0]));
    for (const item of list) if (item.kind in counts) counts[item.kind] += 1;
    const names = { first: inLanguage((index.sets[state.compare] || { title: "" }).title), second: inLanguage((index.sets[state.set] || { title: "" }).title) };
    const key = (kind) => (kind === "found" && !index.sets.length ? "viewer_kind_label" : `viewer_kind_${kind}`);
    const shown = [root.dataset.language, state.set, state.compare, ...kinds].join();
    if ($("#legend").dataset.shown !== shown) {
      $("#legend").dataset.shown = shown;
      $("#legend").innerHTML = kinds.map((kind) => `<div data-kind="${kind}">${swatch(KINDS[kind])}<span></span><b></b></div>`).join("");
      kinds.forEach((kind, k) => { $("#legend").children[k].querySelector("span").textContent = word(key(kind), names); });
    }
    kinds.forEach((kind, k) => { $("#legend").children[k].lastChild.textContent = counts[kind]; });
    $("#score-shown").textContent = state.score.toFixed(2);
    if (index.sets.length) drawStrip();
  }

  const turned = (angle) => { const turn = ((angle % 360) + 540) % 360 - 180; return turn; };
  function showPicked(one) {
    const panel = $("#picked");
    panel.textContent = "";
    const picked = state.picked;
    const box = picked && (picked.truth ? one.truth[picked.number] : (one.sets[picked.set] || [])[picked.number]);
    if (!box) {
      const hint = document.createElement("p");
      hint.textContent = word("viewer_pick");
      panel.append(hint);
      return;
    }
    const degrees = (box[6] * 180) / Math.PI;
    const speed = (b) => (b[7] === null ? null : Math.hypot(b[7], b[8]));
    const rows = [
      [word("viewer_place"), `${box[0].toFixed(2)}, ${box[1].toFixed(2)}, ${box[2].toFixed(2)} m`],
      [word("viewer_away"), `${Math.hypot(box[0], box[1]).toFixed(1)} m`],
      [word("viewer_size"), `${box[3].toFixed(2)} × ${box[4].toFixed(2)} × ${box[5].toFixed(2)} m`],
      [word("viewer_heading"), `${turned(degrees).toFixed(0)}°`],
      [word("viewer_velocity"), speed(box) === null ? "–" : `${speed(box).toFixed(2)} m/s`],
    ];
    if (picked.truth) rows.push([word("viewer_points"), box[11]]); else rows.unshift([word("viewer_score"), box[10].toFixed(3)]);
    const title = document.createElement("h2");
    title.textContent = `${index.classes[box[9]]}: ${word(picked.truth ? "viewer_labelled" : "viewer_found")}`;
    panel.append(title, table(rows));
    const partner = picked.truth
      ? (one.sets[state.set] || []).find((found) => found[11] === picked.number && shownScore(found)) : one.truth[box[11]];
    const note = document.createElement("p");
    if (!partner) {
      const counts = picked.truth ? box[10] : box[11] !== -2;
      note.textContent = word(!index.labelled || !index.sets.length ? "viewer_unmatched" : counts ? (picked.truth ? "viewer_is_missed" : "viewer_is_false") : "viewer_is_ignored", { distance: index.distance });
      panel.append(note);
      return;
    }
    const [found, truth] = picked.truth ? [partner, box] : [box, partner];
    const least = [3, 4, 5].reduce((product, k) => product * Math.min(found[k], truth[k]), 1);
    const volume = (b) => b[3] * b[4] * b[5];
    note.textContent = word("viewer_error");
    panel.append(note, table([
      [word("viewer_centre"), `${Math.hypot(found[0] - truth[0], found[1] - truth[1]).toFixed(2)} m`],
      [word("viewer_size_error"), (1 - least / (volume(found) + volume(truth) - least)).toFixed(3)],
      [word("viewer_heading"), `${Math.abs(turned(((found[6] - truth[6]) * 180) / Math.PI)).toFixed(1)}°`],
      [word("viewer_velocity"), speed(found) === null || speed(truth) === null ? "–" : `${Math.hypot(found[7] - truth[7], found[8] - truth[8]).toFixed(2)} m/s`],
      [word("viewer_score"), found[10].toFixed(3)],
    ]));
  }
  function table(rows) {
    const made = document.createElement("table");
    for (const [name, value] of rows) { const row = made.insertRow(); row.insertCell().textContent = name; row.insertCell().textContent = value; }
    return made;
  }
  function notice(text) { $("#notice").textContent = text; $("#notice").hidden = false; }

  // --------------------------------------------------------------------------------------------------------------- controls

  const views = [];
  function go(number) {
    const last = frames().length - 1;
    const next = Math.max(0, Math.min(last < 0 ? 0 : last, number));
    if (next !== state.frame) { state.frame = next; state.picked = null; }
    ask();
  }
  function goScene(number) {
    if (number < 0 || number >= index.scenes.length) return;
    Object.assign(state, { scene: number, frame: 0, picked: null });
    $("#scene").value = number;
    $("#frame").max = index.scenes[number].frames;
    wantScene(number);
    ask();
  }
  let timer = 0;
  function play(on) {
    state.playing = on;
    $("#play").textContent = on ? "⏸" : "▶";
    clearInterval(timer);
    if (!on) return;
    timer = setInterval(() => {
      if (frame() && !ready(frame())) return;
      if (state.frame < frames().length - 1) go(state.frame + 1);
      else if (state.scene < index.scenes.length - 1) goScene(state.scene + 1);
      else play(false);
    }, 1000 / Number($("#speed").value));
  }
  function pick(list, event, canvas) {
    const ratio = canvas.width / canvas.clientWidth;
    const x = event.offsetX * ratio, y = event.offsetY * ratio;
    const area = (b) => (b[2] - b[0]) * (b[3] - b[1]);
    const under = list.filter(({ bounds: b }) => x >= b[0] && x <= b[2] && y >= b[1] && y <= b[3]).sort((a, b) => area(a.bounds) - area(b.bounds));
    const now = under.findIndex(({ item }) => same(item, state.picked)); // another click at the same place takes the next box
    const next = under[(now + 1) % Math.max(1, under.length)];
    state.picked = next ? { truth: next.item.truth, number: next.item.number, set: next.item.set } : null;
    ask();
  }
  function worst() {
    const counts = frames().map(countsOf).map((count, k) => [k, count.missed + count.false]);
    if (counts.length) go(counts.reduce((a, b) => (b[1] > a[1] ? b : a))[0]);
  }

  function options(select, list) {
    const value = select.value;
    select.textContent = "";
    for (const [key, text] of list) select.add(new Option(text, key));
    if (value) select.value = value;
  }
  function inWords() {
    options($("#set"), index.sets.map((set, k) => [k, inLanguage(set.title)]));
    options($("#compare"), [[-1, word("viewer_nothing")], ...index.sets.map((set, k) => [k, inLanguage(set.title)])]);
    $("#set").value = state.set;
    $("#compare").value = state.compare;
    const findings = $("#findings");
    findings.textContent = "";
    if (index.findings.length) {
      const list = document.createElement("ul");
      for (const text of index.findings) { const item = document.createElement("li"); item.textContent = text; list.append(item); }
      findings.append(word("viewer_findings"), list);
    }
    if (!$("#notice").hidden && seen.missing) notice(word("viewer_no_pictures"));
  }
  function language(name) {
    root.dataset.language = name;
    root.lang = name === "zh" ? "zh-CN" : "en";
  }

  function begin(given) {
    index = given;
    let chosen = null;
    try { chosen = localStorage.getItem("petrflow-language"); } catch (error) { /* a browser may forbid it for files */ }
    language(/^zh/i.test(chosen || (navigator.languages || [navigator.language || "en"])[0]) ? "zh" : "en");
    Object.assign(state, { score: index.threshold, set: Math.max(0, index.sets.length - 1), classes: new Set(index.classes.keys()) });
    // A demo covers one scene: where there are detections of the whole split, those are shown first.
    const whole = index.sets.findIndex((set) => set.key === "after");
    if (whole >= 0) state.set = whole;
    follow();
    plan.canvas = $("#plan");
    const order = index.order.length ? index.order : index.cameras.map((_, k) => k);
    const columns = order.length <= 4 ? Math.min(2, order.length) : Math.ceil(order.length / Math.ceil(order.length / 3));
    $("#views").style.setProperty("--columns", columns || 1);
    for (const camera of order) {
      const holder = document.createElement("div"), canvas = document.createElement("canvas"), name = document.createElement("span");
      holder.className = "view";
      name.textContent = index.cameras[camera];
      holder.append(canvas, name);
      $("#views").append(holder);
      views[camera] = { canvas, holder, width: 0, hits: [] };
      canvas.addEventListener("click", (event) => pick(views[camera].hits, event, canvas));
    }
    options($("#scene"), index.scenes.map((scene, k) => [k, scene.name]));
    $("#scene").value = state.scene;
    $("#frame").max = index.scenes[state.scene] ? index.scenes[state.scene].frames : 1;
    for (const id of ["#sets-label", "#compare-label"]) $(id).hidden = index.sets.length < (id === "#sets-label" ? 1 : 2);
    $("#score").min = index.least;
    $("#score").value = state.score;
    const list = $("#classes div");
    index.classes.forEach((name, k) => {
      const label = document.createElement("label"), box = document.createElement("input");
      Object.assign(box, { type: "checkbox", checked: true });
      box.dataset.class = name;
      box.addEventListener("change", () => { if (box.checked) state.classes.add(k); else state.classes.delete(k); ask(); });
      label.append(box, name);
      list.append(label);
    });
    const every = (on) => { for (const box of list.querySelectorAll("input")) if (box.checked !== on) box.click(); };
    $("#all").addEventListener("click", () => every(true));
    $("#none").addEventListener("click", () => every(false));
    $("#score").addEventListener("input", (event) => { state.score = Number(event.target.value); ask(); });
    $("#set").addEventListener("change", (event) => { Object.assign(state, { set: Number(event.target.value), picked: null }); ask(); });
    $("#compare").addEventListener("change", (event) => { Object.assign(state, { compare: Number(event.target.value), picked: null }); ask(); });
    $("#scene").addEventListener("change", (event) => goScene(Number(event.target.value)));
    $("#frame").addEventListener("input", (event) => go(Number(event.target.value) - 1));
    $("#play").addEventListener("click", () => play(!state.playing));
    $("#speed").addEventListener("change", () => play(state.playing));
    $("#help").addEventListener("click", () => $("#keys").showModal());
    $("#copy").addEventListener("click", () => {
      history.replaceState(null, "", link());
      if (navigator.clipboard) navigator.clipboard.writeText(location.href).catch(() => {});
    });
    plan.canvas.addEventListener("click", (event) => pick(plan.hits, event, plan.canvas));
    plan.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      plan.reach = Math.max(8, Math.min(150, plan.reach * (event.deltaY > 0 ? 1.15 : 1 / 1.15)));
      ask();
    }, { passive: false });
    for (const button of document.querySelectorAll("[data-set-language]")) {
      button.addEventListener("click", () => {
        language(button.dataset.setLanguage);
        try { localStorage.setItem("petrflow-language", button.dataset.setLanguage); } catch (error) { /* a browser may forbid it for files */ }
        inWords();
        ask();
      });
    }
    document.addEventListener("keydown", keyed);
    window.addEventListener("hashchange", () => {
      follow();
      $("#scene").value = state.scene;
      $("#frame").max = index.scenes[state.scene].frames;
      $("#score").value = state.score;
      inWords();
      ask();
    });
    new ResizeObserver(() => {
      if (order.every((camera) => views[camera].width === views[camera].holder.clientWidth)) return;
      for (const camera of order) views[camera].width = views[camera].holder.clientWidth;
      [...small.keys()].forEach(forgetSmall); // they are shown at another size now
      ask();
    }).observe($("#views"));
    new ResizeObserver(ask).observe($("#above"));
    inWords();
    if (index.scenes.length) wantScene(state.scene); else notice(word("viewer_no_scenes"));
  }

  function keyed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT" || $("#keys").open) return;
    const setKey = Number(event.key) - 1;
    const actions = {
      ArrowRight: () => go(state.frame + 1), ArrowLeft: () => go(state.frame - 1), Home: () => go(0), End: () => go(frames().length - 1),
      ArrowDown: () => goScene(state.scene + 1), ArrowUp: () => goScene(state.scene - 1), " ": () => play(!state.playing),
      t: () => { state.truth = !state.truth; ask(); }, d: () => { state.detections = !state.detections; ask(); }, m: worst,
      c: () => { state.compare = state.compare >= 0 || index.sets.length < 2 ? -1 : state.set === 0 ? 1 : 0; $("#compare").value = state.compare; ask(); },
      "+": () => score(0.05), "=": () => score(0.05), "-": () => score(-0.05), "?": () => $("#keys").showModal(),
      Escape: () => { state.picked = null; ask(); },
    };
    const action = setKey >= 0 && setKey < index.sets.length ? () => { state.set = setKey; $("#set").value = setKey; ask(); } : actions[event.key] || actions[event.key.toLowerCase()];
    if (action) { event.preventDefault(); action(); }
  }
  function score(by) {
    state.score = Math.max(index.least, Math.min(1, Math.round((state.score + by) * 100) / 100));
    $("#score").value = state.score;
    ask();
  }

  return { index: begin, scene: (number, list) => { scenes.set(number, list); if (number === state.scene) ask(); }, state, seen, go, goScene, items: () => items(frame()), plan };
})();
