// The page: shows what the events say, and sends what the controls ask for. No state of its own but what is being typed or dragged.
import { constellation, curve, reach } from "./charts.js";

const $ = id => document.getElementById(id);
const text = (element, value) => { if (element.textContent !== value) element.textContent = value; };
const number = (value, digits = 1) => value === null || value === undefined ? "–" : value.toFixed(digits);
const percent = value => value === null || value === undefined ? "–" : `${(100 * value).toFixed(1)} %`;
const db = value => value === null || value === undefined ? "–" : `${value.toFixed(1)} dB`;

let settings = null, live = null, drawing = false;

/** Sends a request; throws what the server says is wrong. */
async function ask(method, path, body, json = true) {
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: { "x-semlink": "1", ...(json && body !== undefined ? { "content-type": "application/json" } : {}) },
      body: json && body !== undefined ? JSON.stringify(body) : body,
    });
  } catch {
    throw new Error("The dashboard does not answer.");
  }
  if (response.status === 401) $("token-form").hidden = false;
  const type = response.headers.get("content-type") ?? "";
  const told = type.includes("json") ? await response.json() : null;
  if (!response.ok) throw new Error(told?.error ?? `The dashboard says ${response.status}.`);
  return told;
}

// --- Controls -----------------------------------------------------------------------------------------------------------------

/** One request at a time; while it is under way only the newest wish is kept. */
function latest(send) {
  let busy = false, wish = null;
  return async value => {
    wish = { ...wish, ...value };
    if (busy) return;
    busy = true;
    while (wish) {
      const now = wish;
      wish = null;
      try {
        await send(now);
        text($("control-error"), "");
      } catch (error) {
        text($("control-error"), error.message);
        show();
      }
    }
    busy = false;
    held.clear();
    show();
  };
}

/** Controls that somebody is using: what the events say must not move them. */
const held = new Map();
const hold = element => held.set(element, Date.now());
const isHeld = element => (held.has(element) && Date.now() - held.get(element) < 1500)
  || (document.activeElement === element && element.type === "number");

const setChannel = latest(change => ask("POST", "api/channel", change));
const setFeed = latest(change => ask("POST", "api/feed", change));

function setSnr(value) {
  if (!Number.isFinite(value)) return;
  hold($("snr"));
  hold($("snr-number"));
  setChannel({ snr_db: value });
}

$("snr").addEventListener("input", event => {
  $("snr-number").value = event.target.value;
  setSnr(event.target.valueAsNumber);
});
// Typed: when it is done, not with each digit.
$("snr-number").addEventListener("change", event => setSnr(event.target.valueAsNumber));
$("kind").addEventListener("change", event => setChannel({ kind: event.target.value }));
$("csi").addEventListener("change", event => setChannel({ csi: event.target.value }));
$("k-factor").addEventListener("change", event => typed(event.target, value => setChannel({ k_factor_db: value })));
$("coherence").addEventListener("change", event => typed(event.target, value => setChannel({ coherence: value }), true));
$("pace").addEventListener("change", event => typed(event.target, value => setFeed({ images_per_second: value })));
$("rate").addEventListener("change", event => setFeed({ rate: event.target.value }));
$("pause").addEventListener("click", () => setFeed({ paused: !settings?.feed.paused }));
$("reset").addEventListener("click", act("control-error", () => ask("DELETE", "api/channel")));
$("clear").addEventListener("click", act("control-error", () => ask("DELETE", "api/curve")));
for (const id of ["channel-form", "feed-form"]) $(id).addEventListener("submit", event => event.preventDefault());

function typed(element, send, whole = false) {
  const value = element.valueAsNumber;
  if (!Number.isFinite(value) || (whole && (!Number.isInteger(value) || value < 0))) {
    text($("control-error"), `${element.labels[0]?.textContent ?? "The field"}: expected ${whole ? "a whole number from 0" : "a number"}.`);
    return;
  }
  hold(element);
  send(value);
}

function act(errorId, what) {
  return async event => {
    event.preventDefault();
    try {
      await what();
      text($(errorId), "");
    } catch (error) {
      text($(errorId), error.message);
    }
  };
}

$("sweep-form").addEventListener("submit", act("sweep-error", () => ask("POST", "api/sweep", {
  snr: $("sweep-snr").value.trim(),
  images: $("sweep-images").valueAsNumber || 0,
  channels: [...document.querySelectorAll("input[name=channel]:checked")].map(box => box.value),
})));
$("sweep-stop").addEventListener("click", act("sweep-error", () => ask("DELETE", "api/sweep")));

$("token-form").addEventListener("submit", async event => {
  event.preventDefault();
  try {
    await ask("POST", "api/token", { token: $("token").value });
    $("token").value = "";
    $("token-form").hidden = true;
    listen();
  } catch (error) {
    trouble(error.message);
  }
});

// --- An image of one's own --------------------------------------------------------------------------------------------------------

async function classify(file) {
  const box = $("upload");
  box.replaceChildren(document.createTextNode(`Sending ${file.name} …`));
  let preview = null;
  try {
    const told = await ask("POST", "api/classify", file, false);
    preview = document.createElement("img");
    preview.alt = file.name;
    preview.src = URL.createObjectURL(file);
    preview.onload = () => URL.revokeObjectURL(preview.src);
    const line = document.createElement("p");
    const name = document.createElement("b");
    name.textContent = told.label;
    const others = told.top.slice(1).map(other => `${other.label} ${percent(other.probability)}`).join(", ");
    line.append(told.unsure ? "unsure, perhaps " : "", name,
      ` ${percent(told.confidence)}, k = ${told.uses}, ${number(told.milliseconds)} ms${others ? `; then ${others}` : ""}`);
    box.replaceChildren(preview, line);
  } catch (error) {
    const line = document.createElement("p");
    line.className = "error";
    line.textContent = `${file.name}: ${error.message}`;
    box.replaceChildren(line);
  }
}

$("file").addEventListener("change", event => {
  const [file] = event.target.files;
  event.target.value = "";
  if (file) classify(file);
});
const drop = $("drop");
// A file that is dropped beside it must not replace the page.
for (const name of ["dragover", "drop"]) document.addEventListener(name, event => event.preventDefault());
drop.addEventListener("dragover", () => drop.classList.add("over"));
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", event => {
  drop.classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) classify(file);
});

// --- What the events say --------------------------------------------------------------------------------------------------------

function trouble(why) {
  $("trouble").hidden = !why;
  text($("trouble"), why);
}

function service(id, word, service) {
  const item = $(id);
  item.className = service.up === null ? "" : service.up ? "up" : "down";
  text(item.querySelector("b"), service.up === null ? "connecting" : service.up ? "up" : "away");
  item.title = service.why || service.name;
  return service.up === false ? `${word} is away: ${service.why}` : null;
}

function choose(select, value) {
  if (!isHeld(select) && select.value !== value) select.value = value;
}

function fill(input, value) {
  if (!isHeld(input) && input.value !== String(value)) input.value = value;
}

function showSettings() {
  const { transmitter, emulator, link, codec, channel, feed, sweep } = settings;
  const away = [service("transmitter", "The transmitter", transmitter), service("emulator", "The emulator", emulator)].filter(Boolean);
  service("link", "The link", link);
  if (!away.length && link.up === false) away.push(`The link does not answer: ${link.why}`);
  trouble(away.join(" "));
  if (channel) {
    fill($("snr"), channel.snr_db);
    fill($("snr-number"), Math.round(channel.snr_db * 100) / 100);
    choose($("kind"), channel.kind);
    choose($("csi"), channel.csi);
    fill($("k-factor"), channel.k_factor_db);
    fill($("coherence"), channel.coherence);
    $("k-factor").disabled = channel.kind !== "rician";
    $("coherence").disabled = channel.kind === "awgn";
    text($("stages"), `Link ${link.name}: ${channel.stages.join(" then ")}${channel.scheduled ? "; the SNR follows a schedule, moving the slider ends it" : ""}`);
  }
  const rates = ["", "auto", ...(codec?.uses ?? []).map(String)];
  const select = $("rate");
  if ([...select.options].map(option => option.value).join() !== rates.join()) {
    const usual = codec?.default_uses ? `k = ${codec.default_uses}` : "auto";
    select.replaceChildren(...rates.map(rate => new Option(
      rate === "" ? (codec ? `default (${usual})` : "default") : rate === "auto" ? "auto" : `k = ${rate}`, rate)));
  }
  choose(select, feed.rate);
  fill($("pace"), feed.images_per_second);
  $("pause").setAttribute("aria-pressed", feed.paused);
  text($("pause"), feed.paused ? "Go on" : "Pause");
  $("sweep-images").max = feed.images || 1;
  if (feed.images && $("sweep-images").valueAsNumber > feed.images) $("sweep-images").value = feed.images;
  for (const id of ["snr", "snr-number", "kind", "csi", "reset"]) $(id).disabled = sweep.running;
  $("sweep-start").disabled = sweep.running || !feed.images;
  $("sweep-stop").disabled = !sweep.running;
  $("sweep-progress").hidden = !sweep.running;
  $("sweep-progress").max = sweep.of || 1;
  $("sweep-progress").value = sweep.answered;
  const points = sweep.points.length;
  text($("sweep-state"), sweep.running ? `${sweep.at}: point ${points + 1}` : !feed.images
    ? "There are no images to sweep with: start the dashboard with --data."
    : sweep.error ? "" : points ? `Done: ${points} points, in the picture as squares. The channel is as it was before.` : "");
  if (sweep.error === "stopped") text($("sweep-state"), "Stopped; the channel is as it was before.");
  else if (sweep.error) text($("sweep-error"), sweep.error);
  text($("about"), `semlink ${settings.version}; codec ${codec?.id ?? "unknown"}; images of ${feed.data || "nobody"}`);
}

function showLive(time) {
  const f = live.figures;
  text($("f-accuracy"), percent(f.accuracy));
  text($("f-labelled"), f.labelled ? `last ${f.labelled} images` : "");
  text($("f-confidence"), percent(f.confidence));
  text($("f-uses"), number(f.uses, f.uses % 1 ? 1 : 0));
  text($("f-pilots"), f.pilots ? `and ${number(f.pilots, 0)} pilots` : "for each image");
  text($("f-requested"), db(f.snr_db_requested));
  text($("f-realised"), db(f.snr_db_realised));
  text($("f-estimated"), f.snr_db_estimated === null ? "the receiver knows none" : `receiver: ${db(f.snr_db_estimated)}`);
  text($("f-images"), number(f.images_per_second));
  text($("f-frames"), number(f.frames_per_second, 0));
  text($("f-latency"), f.latency ? `${number(f.latency.total)} ms` : "–");
  text($("f-failed"), f.failed ? `${f.failed} images failed` : "mean, all hops");
  showFrame(live.frame);
  showRecent(live.recent, time);
  if (f.latency && time - latencyDrawn > 250) {
    latencyDrawn = time;
    showLatency(f.latency);
  }
}

let axes = 2;

function showFrame(frame) {
  if (!frame) return;
  const equalise = $("equalise").checked && frame.equalised.length > 0;
  const arrived = equalise ? frame.equalised : frame.received;
  const wanted = reach(frame.sent, arrived);
  // Axes that grow and shrink with each frame could not be read.
  axes = wanted > axes || wanted < axes / 2 ? wanted : axes;
  constellation($("sent"), frame.sent, axes, "--accent");
  constellation($("received"), arrived, axes, "--rayleigh");
  text($("received-caption"), equalise ? "received, equalised" : "received");
  const drawn = frame.sent.length / 2;
  text($("frame-note"), `${frame.symbols} symbols${drawn < frame.symbols ? `, ${drawn} drawn` : ""}; axes to ±${axes}. `
    + `Asked for ${db(frame.snr_db_requested)}, this frame had ${db(frame.snr_db_realised)} (profile ${frame.version}).`);
}

const tiles = new Map();
let recentDrawn = -Infinity;

/** A few times a second: more could not be looked at. Tiles that stay are left alone, so that their images need not be loaded again. */
function showRecent(recent, time) {
  if (!recent.length || time - recentDrawn < 200) return;
  recentDrawn = time;
  text($("recent-note"), "");
  for (const [number, item] of tiles) {
    if (!recent.some(one => one.number === number)) {
      item.remove();
      tiles.delete(number);
    }
  }
  for (const one of [...recent].reverse()) {
    if (tiles.has(one.number)) continue;
    const item = tile(one);
    tiles.set(one.number, item);
    $("recent").prepend(item);
  }
}

function tile(one) {
  const item = document.createElement("li"), d = one.decided;
  item.className = one.error ? "failed" : d.right === null ? "" : d.right ? "right" : "wrong";
  const image = document.createElement("img");
  image.src = one.image;
  image.alt = one.truth ?? `image ${one.number}`;
  image.width = image.height = 28;
  const name = document.createElement("b");
  name.textContent = one.error ? "failed" : `${d.right === null ? "" : d.right ? "✓ " : "✗ "}${d.label}`;
  const more = document.createElement("span");
  more.textContent = one.error ?? `${d.right === false ? `is ${one.truth}, ` : ""}${d.unsure ? "unsure, " : ""}${percent(d.confidence)}, k = ${d.uses}`;
  item.append(image, name, more);
  return item;
}

let latencyDrawn = -Infinity;

const PHASES = [
  ["client", "page to transmitter and back"], ["queue", "transmitter: waiting"], ["prepare", "transmitter: image"], ["encode", "transmitter: encoder"],
  ["channel", "emulator: channel"], ["decode_queue", "receiver: waiting"], ["decode", "receiver: decoder"], ["network", "between the hops"],
];

function showLatency(latency) {
  const body = $("latency").tBodies[0], bar = $("latency-bar");
  if (!body.rows.length) {
    for (const [i, [, name]] of PHASES.entries()) {
      const row = body.insertRow(), head = document.createElement("th");
      head.scope = "row";
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = `var(--p${i})`;
      head.append(swatch, name);
      row.append(head);
      row.insertCell();
      const part = document.createElement("i");
      part.style.background = `var(--p${i})`;
      bar.append(part);
    }
  }
  for (const [i, [key]] of PHASES.entries()) {
    text(body.rows[i].cells[1], `${number(latency[key], 2)} ms`);
    bar.children[i].style.width = `${100 * latency[key] / Math.max(latency.total, 1e-6)}%`;
  }
}

const KINDS = { awgn: "AWGN", rayleigh: "Rayleigh", rician: "Rician" };

function showCurve() {
  const rate = settings.feed.rate || (settings.codec?.default_uses ? String(settings.codec.default_uses) : "auto");
  const series = [], rows = [];
  const swept = settings.sweep.points;
  for (const kind of Object.keys(KINDS)) {
    const ink = `var(--${kind})`;
    const points = live.curve.filter(p => p.channel === kind && p.rate === rate);
    if (points.length) {
      series.push({ name: `${KINDS[kind]}, live, 95 % interval`, ink, dash: "none",
        points: points.map(p => ({ x: p.snr_db, y: p.accuracy, low: p.ci95[0], high: p.ci95[1] })) });
    }
    const measured = swept.filter(p => p.channel === kind);
    if (measured.length) {
      series.push({ name: `${KINDS[kind]}, sweep, ${measured[0].images} images a point`, ink,
        points: measured.map(p => ({ x: p.snr_db, y: p.accuracy, low: p.ci95[0], high: p.ci95[1] })) });
    }
    rows.push(...points.map(p => [KINDS[kind], p.snr_db, number(p.uses), p.images, p.accuracy, p.ci95]),
      ...measured.map(p => [`${KINDS[kind]} (sweep)`, p.snr_db, number(p.k), p.images, p.accuracy, p.ci95]));
  }
  const limit = settings.limit, lines = [];
  if (limit?.points.length) {
    lines.push({ name: `physical limit, ${KINDS[limit.channel]}, ${limit.uses ? `k = ${limit.uses}` : "the k of each point"}`, ink: `var(--${limit.channel})`, points: limit.points });
  }
  curve($("curve"), series, lines, settings.channel ? settings.channel.snr_db : null);
  text($("curve-note"), series.length ? "" : "Points come with the first images whose class is known.");
  const body = $("curve-table").tBodies[0];
  body.replaceChildren(...rows.map(([channel, snr, k, images, accuracy, [low, high]]) => {
    const row = document.createElement("tr");
    for (const cell of [channel, snr, k, images, percent(accuracy), `${(100 * low).toFixed(1)} to ${(100 * high).toFixed(1)}`]) row.insertCell().textContent = cell;
    return row;
  }));
}

let curveDrawn = -Infinity;

/** Draws once a screen refresh, whatever comes; the curve a few times a second. */
function show() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(time => {
    drawing = false;
    if (settings) showSettings();
    if (live) showLive(time);
    if (settings && live && time - curveDrawn > 250) {
      curveDrawn = time;
      showCurve();
    }
  });
}

// --- The connection -------------------------------------------------------------------------------------------------------------

let source = null, lost = null;

function listen() {
  source?.close();
  source = new EventSource("events");
  source.addEventListener("settings", event => { settings = JSON.parse(event.data); back(); });
  source.addEventListener("live", event => { live = JSON.parse(event.data); back(); });
  source.onerror = async () => {
    if (source.readyState === EventSource.CLOSED) {
      // Refused rather than cut: why, and again later.
      try {
        const response = await fetch("events", { method: "HEAD" });
        if (response.status === 401) {
          $("token-form").hidden = false;
          $("token").focus();
          return;
        }
      } catch { /* away */ }
      clearTimeout(lost);
      lost = setTimeout(listen, 1000);
    }
    trouble("The dashboard itself is away; this page tries again.");
  };
}

function back() {
  $("token-form").hidden = true;
  show();
}

window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
window.addEventListener("resize", () => { curveDrawn = -Infinity; show(); });
$("equalise").addEventListener("change", show);
listen();
