// The viewer. Times are seconds of the video; lengths are metres, y up, the floor at y = 0.
// window.ropetp answers to the console: seek(s), play(), pause(), time(), joints(person, s).
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const KINDS = { i1: Int8Array, u1: Uint8Array, i2: Int16Array, u2: Uint16Array, f4: Float32Array };

  function decode({ kind, scale, bytes }) {
    const letters = atob(bytes), raw = new Uint8Array(letters.length);
    for (let index = 0; index < raw.length; index++) raw[index] = letters.charCodeAt(index);
    const values = new KINDS[kind](raw.buffer);
    return scale ? Float32Array.from(values, (value) => value * scale) : values;
  }

  // ------------------------------------------------------------------------------ the scene

  const scene = new THREE.Scene();
  const BACKGROUND = new THREE.Color(0xeceff2);
  scene.background = BACKGROUND;
  const lens = new THREE.PerspectiveCamera(38, 1, 0.05, 400);
  let renderer;
  try {
    renderer = new THREE.WebGLRenderer({ canvas: $("stage"), antialias: true });
  } catch {
    const fault = document.createElement("p");
    fault.id = "fault";
    fault.textContent = "This browser has no WebGL, which the viewer needs.";
    document.body.append(fault);
    return;
  }
  renderer.setPixelRatio(Math.min(window.devicePixelRatio, 2));
  renderer.shadowMap.enabled = true;
  const orbit = new THREE.OrbitControls(lens, renderer.domElement);
  orbit.enableDamping = true;
  orbit.dampingFactor = 0.12;
  orbit.minDistance = 0.4;
  orbit.maxDistance = 80;
  orbit.maxPolarAngle = Math.PI * 0.54;

  scene.add(new THREE.HemisphereLight(0xffffff, 0xb9c0c8, 1.7));
  const sun = new THREE.DirectionalLight(0xffffff, 2.1);
  const SUN_FROM = new THREE.Vector3(-2.5, 7, 3.5);
  sun.castShadow = true;
  sun.shadow.mapSize.set(1024, 1024);
  Object.assign(sun.shadow.camera, { left: -6, right: 6, top: 6, bottom: -6, near: 1, far: 20 });
  sun.shadow.normalBias = 0.02;
  scene.add(sun, sun.target);

  const REACH = 60;
  const plane = new THREE.PlaneGeometry(2 * REACH, 2 * REACH).rotateX(-Math.PI / 2);
  const shade = new THREE.Mesh(plane, new THREE.ShadowMaterial({ opacity: 0.22 }));
  shade.receiveShadow = true;
  const grid = new THREE.Mesh(plane, new THREE.ShaderMaterial({
    transparent: true,
    depthWrite: false,
    uniforms: { center: { value: new THREE.Vector3() } },
    vertexShader: `varying vec2 place;
      void main() {
        vec4 world = modelMatrix * vec4(position, 1.0);
        place = world.xz;
        gl_Position = projectionMatrix * viewMatrix * world;
      }`,
    fragmentShader: `varying vec2 place;
      uniform vec3 center;
      float lines(float step) {
        vec2 at = place / step, wide = fwidth(at);
        vec2 near = abs(fract(at - 0.5) - 0.5) / max(wide, 1e-6);
        float fine = clamp(1.0 - 2.0 * max(wide.x, wide.y), 0.0, 1.0);
        return (1.0 - min(min(near.x, near.y), 1.0)) * fine;
      }
      void main() {
        float fade = exp(-length(place - center.xz) / 9.0);
        float line = max(0.55 * lines(1.0), 0.8 * lines(5.0));
        gl_FragColor = vec4(vec3(0.38, 0.42, 0.47), line * fade);
      }`,
  }));
  grid.position.y = 0.001;
  grid.renderOrder = 1;
  scene.add(shade, grid);

  // ----------------------------------------------------------------------------- the people

  const JOINTS = data.parents.length;
  const mesh = data.mesh && {
    faces: decode(data.mesh.faces), bones: decode(data.mesh.bones),
    weights: decode(data.mesh.weights),
  };
  const from = new THREE.Quaternion(), to = new THREE.Quaternion(), spot = new THREE.Vector3();
  const FOOTPRINT = new THREE.CircleGeometry(0.5, 28).rotateX(-Math.PI / 2);

  /** One person: a skeleton of bones in the world, and what hangs on it. */
  class Person {
    constructor(told) {
      Object.assign(this, told);
      this.quaternions = decode(told.rotations);
      this.pelvis = decode(told.pelvis);
      this.contacts = decode(told.contacts);
      this.speeds = decode(told.speeds);
      this.end = this.start + (this.frames - 1) / this.fps;
      this.on = true;
      this.group = new THREE.Group();
      this.joints = data.parents.map(() => new THREE.Bone());
      data.parents.forEach((parent, joint) => {
        const offset = told.rest[joint].map((x, axis) => x - (parent < 0 ? 0 : told.rest[parent][axis]));
        this.joints[joint].position.fromArray(offset);
        (parent < 0 ? this.group : this.joints[parent]).add(this.joints[joint]);
      });
      this.solid = [];
      if (told.vertices) this.addMesh();
      this.sticks = this.makeSticks();
      this.trail = this.makeTrail();
      this.prints = this.steps.map((step) => this.makePrint(step));
      scene.add(this.group, this.trail.done, this.trail.whole, ...this.prints);
      this.label = document.createElement("span");
      this.label.textContent = this.id;
      this.label.style.background = this.color;
      $("labels").append(this.label);
    }

    addMesh() {
      const shape = new THREE.BufferGeometry();
      shape.setAttribute("position", new THREE.BufferAttribute(decode(this.vertices), 3));
      shape.setIndex(new THREE.BufferAttribute(mesh.faces, 1));
      shape.setAttribute("skinIndex", new THREE.BufferAttribute(mesh.bones, 4));
      shape.setAttribute("skinWeight", new THREE.BufferAttribute(mesh.weights, 4, true));
      shape.computeVertexNormals();
      const paint = new THREE.MeshStandardMaterial({ color: this.color, roughness: 0.72 });
      const skin = new THREE.SkinnedMesh(shape, paint);
      const inverses = this.rest.map((place) => new THREE.Matrix4().makeTranslation(
        -place[0], -place[1], -place[2]));
      skin.bind(new THREE.Skeleton(this.joints, inverses), new THREE.Matrix4());
      skin.frustumCulled = false;
      skin.castShadow = true;
      this.group.add(skin);
      this.solid.push(skin);
    }

    makeSticks() {
      const dark = new THREE.Color(this.color).multiplyScalar(0.55);
      const ball = new THREE.MeshStandardMaterial({ color: dark, roughness: 0.6 });
      const stick = new THREE.MeshStandardMaterial({ color: this.color, roughness: 0.6 });
      const up = new THREE.Vector3(0, 1, 0);
      const parts = [];
      this.joints.forEach((joint, index) => {
        const dot = new THREE.Mesh(new THREE.SphereGeometry(0.024, 16, 12), ball);
        joint.add(dot);
        parts.push(dot);
        const parent = this.joints[data.parents[index]];
        if (!parent) return;
        const length = joint.position.length();
        const bone = new THREE.Mesh(new THREE.CylinderGeometry(0.009, 0.02, length, 12), stick);
        bone.position.copy(joint.position).multiplyScalar(0.5);
        bone.quaternion.setFromUnitVectors(up, spot.copy(joint.position).normalize());
        parent.add(bone);
        parts.push(bone);
      });
      for (const part of parts) part.castShadow = true;
      return parts;
    }

    /** The pelvis's way on the floor as a ribbon: all of it, faint, and what is behind. */
    makeTrail() {
      const places = [], faces = [], side = new THREE.Vector3(1, 0, 0), step = new THREE.Vector3();
      for (let frame = 0; frame < this.frames; frame++) {
        const next = Math.min(frame + 2, this.frames - 1), last = Math.max(frame - 2, 0);
        step.fromArray(this.pelvis, 3 * next).sub(spot.fromArray(this.pelvis, 3 * last));
        step.y = 0;
        if (step.length() > 0.01) side.set(-step.z, 0, step.x).normalize();
        const x = this.pelvis[3 * frame], z = this.pelvis[3 * frame + 2];
        for (const half of [-0.018, 0.018]) places.push(x + half * side.x, 0, z + half * side.z);
        const k = 2 * frame;
        if (frame) faces.push(k - 2, k - 1, k, k - 1, k + 1, k);
      }
      const build = (opacity, height) => {
        const shape = new THREE.BufferGeometry();
        shape.setAttribute("position", new THREE.Float32BufferAttribute(places, 3));
        shape.setIndex(faces);
        const ribbon = new THREE.Mesh(shape, new THREE.MeshBasicMaterial({
          color: this.color, transparent: true, opacity, depthWrite: false, side: THREE.DoubleSide,
        }));
        ribbon.position.y = height;
        ribbon.frustumCulled = false;
        ribbon.renderOrder = 2;
        return ribbon;
      };
      return { whole: build(0.22, 0.002), done: build(0.75, 0.003) };
    }

    makePrint([foot, begin, end, x, y, z, heading]) {
      const print = new THREE.Mesh(FOOTPRINT, new THREE.MeshBasicMaterial({
        color: this.color, transparent: true, depthWrite: false,
      }));
      print.scale.set(0.095, 1, 0.27);
      print.position.set(x, y + 0.004, z);
      print.rotation.y = heading;
      print.renderOrder = 3;
      print.userData = { foot, begin: this.start + begin / this.fps,
        end: this.start + end / this.fps };
      return print;
    }

    there(time) {
      return time > this.start - 0.51 / this.fps && time < this.end + 0.51 / this.fps;
    }

    frameAt(time) {
      return Math.max(0, Math.min(this.frames - 1, (time - this.start) * this.fps));
    }

    pose(time) {
      const here = this.on && this.there(time), at = this.frameAt(time);
      const frame = Math.min(Math.floor(at), Math.max(0, this.frames - 2));
      const next = Math.min(frame + 1, this.frames - 1), share = at - frame;
      this.group.visible = here;
      this.joints[0].position.fromArray(this.pelvis, 3 * frame)
        .lerp(spot.fromArray(this.pelvis, 3 * next), share);
      this.joints.forEach((joint, index) => {
        from.fromArray(this.quaternions, 4 * (JOINTS * frame + index)).normalize();
        to.fromArray(this.quaternions, 4 * (JOINTS * next + index)).normalize();
        joint.quaternion.slerpQuaternions(from, to, share);
      });
      const bare = show.bones || !this.solid.length;
      for (const part of this.solid) part.visible = !bare;
      for (const part of this.sticks) part.visible = bare;
      this.trail.whole.visible = this.trail.done.visible = show.trails && this.on;
      this.trail.done.geometry.setDrawRange(0, time < this.start ? 0 : 6 * Math.round(at));
      for (const print of this.prints) {
        const { begin, end } = print.userData, age = time - end;
        print.visible = show.steps && this.on && time >= begin && age < MEMORY;
        print.material.opacity = age <= 0 ? 0.85 : 0.4 * (1 - age / MEMORY);
      }
    }

    /** What the camera aims at: level over the floor, higher with who stands on something. */
    place(time, out) {
      const frame = 3 * Math.round(this.frameAt(time));
      const height = Math.max(0.9, this.pelvis[frame + 1] - 0.2);
      return out.set(this.pelvis[frame], height, this.pelvis[frame + 2]);
    }
  }

  const MEMORY = 12; // s that a footprint stays
  const show = { loop: true, trails: true, steps: true, bones: false, grid: true, help: false };
  const people = data.people.map((told) => new Person(told));

  // ------------------------------------------------------------------------- time and camera

  let now = data.start, playing = false, speed = 1, clockAt = 0;
  let follow = "all"; // "none", "all" or a person
  const wanted = new THREE.Vector3(), shift = new THREE.Vector3();
  let free = 1; // the share of the picture's height that nothing covers
  const anchor = new THREE.Vector3(); // where the followed are, smoothed; the camera keeps to it

  function aim(out) {
    const chosen = people.filter((one) => one.on && (follow === "all" || follow === one));
    const here = chosen.filter((one) => one.there(now));
    if (!here.length) return false;
    out.set(0, 0, 0);
    for (const one of here) out.add(one.place(now, spot));
    out.multiplyScalar(1 / here.length);
    return true;
  }

  function resetCamera() {
    const everyone = people.filter((one) => one.there(now));
    const crowd = everyone.length ? everyone : people;
    wanted.set(0, 0, 0);
    for (const one of crowd) wanted.add(one.place(now, spot));
    wanted.multiplyScalar(1 / crowd.length);
    let spread = 0, tall = 0;
    for (const one of crowd) {
      one.place(now, spot).sub(wanted);
      spread = Math.max(spread, Math.hypot(spot.x, spot.z));
      tall = Math.max(tall, Math.abs(spot.y));
    }
    orbit.target.copy(wanted);
    if (!aim(anchor)) anchor.copy(wanted);
    const half = Math.tan(lens.fov * Math.PI / 360); // of the picture's height
    const away = Math.max((tall + 1.3) / half / free, (spread + 1) / half / lens.aspect);
    lens.position.copy(wanted).addScaledVector(spot.fromArray(data.view), -(away + 0.7 * spread));
    orbit.update();
  }

  function seek(time) {
    now = Math.max(data.start, Math.min(data.end, time));
    film.seek();
    dirty = true;
  }

  function setPlaying(value) {
    playing = value;
    if (playing && now >= data.end - 1e-3) now = data.start;
    film.seek();
    film.run();
    showPlaying();
  }

  function showPlaying() {
    const path = playing ? "M4 3h3v10H4zM9 3h3v10H9z" : "M5 2.6 13 8l-8 5.4z";
    $("play").innerHTML = `<svg width="16" height="16" viewBox="0 0 16 16"><path d="${path}"/></svg>`;
    $("play").setAttribute("aria-label", playing ? "Pause" : "Play");
  }

  function advance(step) {
    if (!playing) return;
    now = film.time() ?? now + step * speed;
    if (now < data.end && !film.over()) return;
    if (show.loop) {
      now = data.start;
      film.seek();
      film.run();
    } else {
      now = data.end;
      setPlaying(false);
    }
  }

  // ------------------------------------------------------------------------------- the video

  /** The video beside the page, when there is one: it leads the time while it plays. */
  const film = {
    element: $("video"),
    chosen: -1, // into data.films; -1 hides it
    ready: false,
    places: [],
    offset: 0,

    choose(index) {
      this.chosen = index;
      const told = data.films[index];
      $("film").hidden = !told;
      this.ready = false;
      this.element.pause();
      press("films", Boolean(told));
      if (told) this.use(told.name, [...told.places], told.offset, told.poster);
    },

    use(name, places, offset, poster) {
      Object.assign(this, { places, offset, ready: false });
      $("film-name").textContent = name;
      this.element.poster = poster || "";
      this.element.src = this.places.shift();
      if (playing) this.run();
    },

    seek() {
      if (this.ready) this.element.currentTime = now - this.offset;
      else if (this.chosen >= 0) this.element.preload = "auto";
    },

    run() {
      const video = this.element;
      if (this.chosen < 0) return;
      video.playbackRate = speed;
      if (!playing) video.pause();
      else video.play().catch(() => {}); // a missing file is the error event's business
    },

    time() {
      const video = this.element;
      const leads = this.chosen >= 0 && this.ready && !video.paused && !video.ended;
      return leads ? video.currentTime + this.offset : null;
    },

    over() {
      return this.chosen >= 0 && this.ready && this.element.ended;
    },
  };
  film.element.addEventListener("loadedmetadata", () => {
    film.ready = true;
    film.seek();
    resize(); // it may be higher than its place was
  });
  film.element.addEventListener("error", () => {
    film.ready = false;
    if (film.places.length) {
      film.element.src = film.places.shift();
      film.run();
    } else {
      $("film-name").textContent = "not found beside this page, or not playable here";
    }
  });
  $("pick").addEventListener("change", () => {
    const [file] = $("pick").files;
    if (!file) return;
    if (film.chosen < 0) film.choose(0);
    film.use(file.name, [URL.createObjectURL(file)], 0, "");
    film.element.preload = "auto";
  });

  // -------------------------------------------------------------------------------- the plot

  const LANE = 52, AXIS = 18, LEFT = 64, RIGHT = 16;
  const plot = $("plot"), ink = plot.getContext("2d"), paper = document.createElement("canvas");
  const top = Math.max(1, ...people.map((one) => one.speeds.reduce((a, b) => Math.max(a, b), 0)));
  const across = (time) => LEFT + (plot.clientWidth - LEFT - RIGHT)
    * (time - data.start) / Math.max(data.end - data.start, 1e-6);

  function drawPaper() {
    const shown = people.filter((one) => one.on).slice(0, 4), ratio = renderer.getPixelRatio();
    const width = plot.clientWidth, height = Math.max(1, shown.length) * LANE + AXIS;
    plot.style.height = `${height}px`;
    for (const canvas of [plot, paper]) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const pen = paper.getContext("2d");
    pen.scale(ratio, ratio);
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "middle";
    shown.forEach((one, lane) => {
      const floor = (lane + 1) * LANE - 20, rise = LANE - 28;
      pen.fillStyle = "#6b737c";
      pen.textAlign = "left";
      pen.fillText(people.length > 1 ? `${one.id}  m/s` : "m/s", 2, floor - rise / 2);
      pen.textAlign = "right";
      pen.font = "9px system-ui, sans-serif";
      pen.fillText("left foot", LEFT - 4, floor + 5.5);
      pen.fillText("right foot", LEFT - 4, floor + 14);
      pen.font = "11px system-ui, sans-serif";
      pen.fillText(top.toFixed(1), LEFT - 4, floor - rise + 4);
      pen.strokeStyle = "#e1e5e9";
      pen.beginPath();
      for (const y of [floor + 0.5, floor - rise + 0.5]) {
        pen.moveTo(LEFT, y);
        pen.lineTo(width - RIGHT, y);
      }
      pen.stroke();
      pen.beginPath();
      pen.moveTo(across(one.start), floor);
      for (let frame = 0; frame < one.frames; frame++) {
        pen.lineTo(across(one.start + frame / one.fps), floor - rise * one.speeds[frame] / top);
      }
      pen.lineTo(across(one.end), floor);
      pen.globalAlpha = 0.28;
      pen.fillStyle = one.color;
      pen.fill();
      pen.globalAlpha = 1;
      pen.strokeStyle = one.color;
      pen.stroke();
      for (let foot = 0; foot < 2; foot++) {
        for (let frame = 0; frame < one.frames; frame++) {
          if (one.contacts[2 * frame + foot] < 128) continue;
          const first = frame;
          while (frame < one.frames && one.contacts[2 * frame + foot] >= 128) frame++;
          const x = Math.max(LEFT, across(one.start + (first - 0.5) / one.fps));
          const end = Math.min(width - RIGHT, across(one.start + (frame - 0.5) / one.fps));
          pen.fillRect(x, floor + 2.5 + 8.5 * foot, Math.max(end - x, 1 / ratio), 6);
        }
      }
    });
    const span = data.end - data.start, room = Math.max(1, (width - LEFT) / 70);
    const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600].find((s) => span / s < room) || 1800;
    pen.fillStyle = "#6b737c";
    pen.textAlign = "center";
    for (let mark = Math.ceil(data.start / step) * step; mark <= data.end; mark += step) {
      pen.fillText(`${+mark.toFixed(2)} s`, across(mark), height - 6);
    }
    dirty = true;
  }

  function drawPlot() {
    const ratio = renderer.getPixelRatio();
    ink.setTransform(1, 0, 0, 1, 0, 0);
    ink.clearRect(0, 0, plot.width, plot.height);
    ink.drawImage(paper, 0, 0);
    ink.setTransform(ratio, 0, 0, ratio, 0, 0);
    const x = across(now);
    ink.fillStyle = "#1f6feb";
    ink.fillRect(x - 0.75, 0, 1.5, plot.clientHeight - AXIS + 2);
    ink.beginPath();
    ink.arc(x, plot.clientHeight - AXIS + 2, 4, 0, 7);
    ink.fill();
  }

  function scrub(event) {
    const share = (event.offsetX - LEFT) / Math.max(1, plot.clientWidth - LEFT - RIGHT);
    seek(data.start + share * (data.end - data.start));
  }
  plot.addEventListener("pointerdown", (event) => {
    plot.setPointerCapture(event.pointerId);
    scrub(event);
  });
  plot.addEventListener("pointermove", (event) => {
    if (plot.hasPointerCapture(event.pointerId)) scrub(event);
  });

  // ---------------------------------------------------------------------------- the controls

  const press = (id, value) => $(id).setAttribute("aria-pressed", value);

  function toggle(name) {
    show[name] = !show[name];
    press(name, show[name]);
    $("keys").hidden = !show.help;
    grid.visible = show.grid;
    dirty = true;
  }

  function setSpeed(value) {
    speed = value;
    $("speed").value = String(value);
    film.run();
  }

  function changeSpeed(direction) {
    const all = [...$("speed").options].map((option) => Number(option.value));
    setSpeed(all[Math.max(0, Math.min(all.length - 1, all.indexOf(speed) + direction))]);
  }

  function setFollow(index) {
    $("follow").selectedIndex = index;
    follow = ["none", "all", ...people][index];
  }

  function switchPerson(one) {
    one.on = !one.on;
    one.button.classList.toggle("off", !one.on);
    one.button.setAttribute("aria-pressed", one.on);
    drawPaper();
  }

  $("title").textContent = data.title;
  const rates = [...new Set(people.map((one) => +one.fps.toFixed(3)))].join(", ");
  $("about").textContent = `${people.length === 1 ? "1 person" : `${people.length} people`} · `
    + `${(data.end - data.start).toFixed(2)} s · ${rates} frames/s`;
  $("note").textContent = data.note;
  for (const one of people) {
    one.button = document.createElement("button");
    const dot = document.createElement("i");
    dot.style.setProperty("--color", one.color);
    one.button.append(dot, `person ${one.id}`);
    one.button.title = "On, off";
    one.button.setAttribute("aria-pressed", true);
    one.button.addEventListener("click", () => switchPerson(one));
    $("people").append(one.button);
  }
  for (const name of ["nobody", "everybody", ...people.map((one) => `person ${one.id}`)]) {
    $("follow").add(new Option(name));
  }
  setFollow(1);
  const nextFilm = () => {
    film.choose(film.chosen + 1 < data.films.length ? film.chosen + 1 : -1);
    resize();
  };
  for (const name of ["loop", "trails", "steps", "bones", "grid", "help"]) {
    press(name, show[name]);
    $(name).addEventListener("click", () => toggle(name));
  }
  $("play").addEventListener("click", () => setPlaying(!playing));
  $("speed").addEventListener("change", () => setSpeed(Number($("speed").value)));
  $("follow").addEventListener("change", () => setFollow($("follow").selectedIndex));
  $("films").addEventListener("click", nextFilm);
  $("home").addEventListener("click", resetCamera);
  $("films").hidden = !data.films.length;
  $("bones").hidden = !mesh;

  const FRAME = 1 / people[0].fps;
  const KEYS = {
    " ": () => setPlaying(!playing),
    ArrowLeft: (event) => seek(now - (event.shiftKey ? 1 : FRAME)),
    ArrowRight: (event) => seek(now + (event.shiftKey ? 1 : FRAME)),
    Home: () => seek(data.start),
    End: () => seek(data.end),
    "[": () => changeSpeed(-1),
    "]": () => changeSpeed(1),
    f: () => setFollow(($("follow").selectedIndex + 1) % $("follow").options.length),
    t: () => toggle("trails"),
    c: () => toggle("steps"),
    b: () => mesh && toggle("bones"),
    g: () => toggle("grid"),
    l: () => toggle("loop"),
    v: nextFilm,
    r: resetCamera,
    "?": () => toggle("help"),
  };
  window.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const one = people[Number(key) - 1];
    if (one) switchPerson(one);
    else if (KEYS[key]) KEYS[key](event);
    else return;
    if (document.activeElement !== document.body) document.activeElement.blur();
    event.preventDefault();
  });

  // -------------------------------------------------------------------------------- the loop

  let dirty = true;
  const NARROW = 700; // px, as in the style

  function resize() {
    lens.aspect = window.innerWidth / Math.max(1, window.innerHeight);
    lens.updateProjectionMatrix();
    renderer.setSize(window.innerWidth, window.innerHeight, false);
    drawPaper(); // the bar is as high as its plot
    // The bar covers the lower edge and, in a narrow window, the title and the video the upper:
    // the middle of the picture lies between them.
    const width = window.innerWidth, height = window.innerHeight;
    const bar = Math.min($("bar").parentElement.offsetHeight, height / 3);
    const heads = [$("title").parentElement, $("film")].map((one) => one.getBoundingClientRect().bottom);
    const head = width < NARROW ? Math.min(Math.max(...heads), height / 4) : 0;
    free = 1 - (bar + head) / height;
    lens.setViewOffset(width, height, 0, (bar - head) / 2, width, height);
  }

  function drawLabels() {
    for (const one of people) {
      one.label.hidden = people.length < 2 || !one.group.visible;
      if (one.label.hidden) continue;
      one.joints[data.head].getWorldPosition(spot);
      spot.y += 0.2;
      spot.project(lens);
      one.label.hidden = spot.z > 1;
      one.label.style.left = `${(spot.x + 1) / 2 * window.innerWidth}px`;
      one.label.style.top = `${(1 - spot.y) / 2 * window.innerHeight}px`;
    }
  }

  const two = (time) => time.toFixed(2);

  function draw(stamp) {
    const step = Math.min(0.1, Math.max(0, (stamp - clockAt) / 1000));
    clockAt = stamp;
    const before = now;
    advance(step);
    if (follow !== "none" && aim(wanted)) {
      const share = playing ? 1 - Math.exp(-step / 0.25) : 1;
      shift.copy(wanted).sub(anchor).multiplyScalar(share);
      anchor.add(shift);
      if (shift.length() > 1e-4) {
        orbit.target.add(shift);
        lens.position.add(shift);
        dirty = true;
      }
    }
    if (orbit.update()) dirty = true;
    if (dirty || now !== before) render();
    requestAnimationFrame(draw);
  }

  function render() {
    dirty = false;
    for (const one of people) one.pose(now);
    grid.material.uniforms.center.value.copy(orbit.target);
    sun.target.position.copy(orbit.target).setY(0);
    sun.position.copy(sun.target.position).add(SUN_FROM);
    renderer.render(scene, lens);
    drawLabels();
    drawPlot();
    $("clock").textContent = `${two(now)} / ${two(data.end)} s · frame ${
      Math.round((now - data.start) / FRAME)}`;
  }

  window.addEventListener("resize", resize);
  film.choose(data.films.length ? 0 : -1);
  showPlaying();
  const begin = new URLSearchParams(location.hash.slice(1)); // viewer.html#t=2.5&play
  if (begin.has("t")) seek(Number(begin.get("t")) || data.start);
  resize();
  resetCamera();
  if (begin.has("play")) setPlaying(true);
  requestAnimationFrame((stamp) => {
    clockAt = stamp;
    draw(stamp);
  });

  window.ropetp = {
    seek: (time) => { seek(time); render(); },
    play: () => setPlaying(true),
    pause: () => setPlaying(false),
    time: () => now,
    joints: (person, time = now) => {
      const one = people.find((candidate) => candidate.id === person);
      one.pose(time);
      dirty = true;
      one.group.updateMatrixWorld(true);
      return one.joints.map((joint) => joint.getWorldPosition(new THREE.Vector3()).toArray());
    },
  };
})();
