// Follows one peer: its status document comes through /events, or from /status where that fails.
// Everything a document holds was written by some peer, so it enters the page as text only.

import { child, facts, page, show, table, trim, write } from "/static/dom.js";
import { DASH, ago, bytes, count, duration, isNumber, list, loss, map, mean, pageOf, percent, text } from "/static/text.js";

const VERSION = 1;
const STALE = 2500; // ms without a document after which the page asks by itself
const POLL_DEADLINE = 2000;
const LISTEN_AGAIN = 15000;

// The parts of the page

function renderHead(status) {
  const peer = map(status.peer);
  write(page("cluster"), `Cluster ${text(status.cluster)}`);
  write(page("peer"), `as seen by ${text(peer.name)}`);
}

function phaseOf(run) {
  if (run.status && run.status !== "running") return String(run.status);
  const words = { initialise: "making weights", train: "training", evaluate: "evaluating", finished: "finished" };
  return Object.hasOwn(words, run.phase) ? words[run.phase] : text(run.phase);
}

function renderRun(status) {
  const run = map(status.run);
  const here = run.phase !== undefined;
  const elsewhere = !here && run.run !== undefined;
  write(page("run-title"), here || elsewhere ? `Run ${text(run.run)}` : "Run");
  show(page("run-phase"), here);
  show(page("run"), here);
  show(page("run-error"), here && Boolean(run.error));
  show(page("run-note"), !here);
  if (!here) {
    const at = map(map(status.members)[run.at]);
    const href = elsewhere ? pageOf(at) : null;
    const note = child(page("run-note"), 0, "span");
    write(note, elsewhere ? `Its progress is kept by ${text(run.at)}. ` : "No run is under way.");
    if (href !== null) {
      const link = child(page("run-note"), 1, "a");
      link.setAttribute("href", href);
      write(link, "Follow it there");
    }
    trim(page("run-note"), href === null ? 1 : 2);
    return;
  }

  const phase = page("run-phase");
  write(phase, phaseOf(run));
  phase.dataset.kind = run.status === "failed" ? "failed" : "";
  write(page("run-error"), text(run.error));

  const share = isNumber(run.examples) && run.examples_wanted > 0 ? Math.min(run.examples / run.examples_wanted, 1) : 0;
  page("run-progress").value = share;
  write(page("run-percent"), `${Math.floor(100 * share)} %`);

  const rate = run.samples_per_second;
  const left = run.status === "running" && run.phase === "train" && rate > 0 ? (run.examples_wanted - run.examples) / rate : null;
  const staleness = map(run.staleness);
  const tested = isNumber(run.test_accuracy) || isNumber(run.test_loss);
  const pushes = map(run.pushes);
  facts("run-numbers", [
    ["Epoch", `${count(run.epochs)} of ${count(run.epochs_wanted)}`, "done"],
    ["Step", count(run.steps), run.consistency ? `consistency ${run.consistency}` : ""],
    ["Examples", count(run.examples), `of ${count(run.examples_wanted)}` + (run.repeated_examples > 0 ? `, ${count(run.repeated_examples)} repeated` : "")],
    ["Examples per second", count(rate), isNumber(left) ? `about ${duration(Math.max(left, 0))} left` : `in ${duration(run.seconds)}`],
    ["Training loss", loss(run.recent_loss ?? run.loss), isNumber(run.loss) && isNumber(run.recent_loss) ? `${loss(run.loss)} over the epoch` : ""],
    tested
      ? ["Test accuracy", percent(run.test_accuracy), `test loss ${loss(run.test_loss)}`]
      : ["Training accuracy", percent(run.recent_accuracy), "recent examples"],
    ["Staleness", mean(staleness.mean), `mean clocks, ${count(staleness.max)} at most`],
    ["Pushes", count(pushes.applied), `${count(pushes.duplicate)} duplicate, ${count(pushes.refused)} refused`],
  ]);

  const members = map(status.members);
  table(
    "workers",
    [
      ["Worker", ([name]) => linked(name, members)],
      ["Device", ([, worker]) => text(worker.device)],
      ["Clock", ([, worker]) => count(worker.clock), true],
      ["Examples", ([, worker]) => count(worker.examples), true],
      ["Heard", ([, worker]) => ago(worker.heard_ago), true],
    ],
    entries(run.workers),
    "No worker is active.",
  );
  const dropped = Object.entries(map(run.dropped));
  show(page("dropped-part"), dropped.length > 0);
  table("dropped", [["Worker", ([name]) => name], ["Why", ([, why]) => text(why)]], dropped, "");
}

const byName = new Intl.Collator("en", { numeric: true });

function entries(value) {
  return Object.entries(map(value)).map(([name, inner]) => [name, map(inner)]).sort(([a], [b]) => byName.compare(a, b));
}

function linked(name, members) {
  return { text: name, href: pageOf(map(members[name])) };
}

function renderMembers(status) {
  const coordinator = map(status.coordinator);
  const me = map(status.peer).name;
  const leader = coordinator.leader ? `led by ${coordinator.leader}` : "no leader now";
  const state = coordinator.state === "connected" ? "" : `, coordinator ${text(coordinator.state)}`;
  write(page("leader"), leader + state);
  const marks = (name) => [name === coordinator.leader ? "leader" : "", name === me ? "this peer" : ""].filter(Boolean).join(", ");
  const all = map(status.members);
  table(
    "members",
    [
      ["Peer", ([name]) => ({ ...linked(name, all), mark: marks(name) })],
      ["Roles", ([, member]) => list(member.roles).join(", ") || "spare"],
      ["Device", ([, member]) => text(member.device)],
      ["Address", ([, member]) => text(member.address)],
    ],
    entries(all),
    "No member is known.",
  );
}

function renderTables(status) {
  const known = map(status.map);
  write(page("tables-note"), isNumber(known.serial) ? `map ${known.serial}; counts are of the slices held by this peer` : "");
  table(
    "tables",
    [
      ["Table", ([name]) => name],
      ["Size", ([, one]) => bytes(one.size), true],
      ["Slices here", ([, one]) => `${count(one.held)} of ${count(one.slices)}`, true],
      ["Clock", ([, one]) => count(one.clock), true],
      ["Applied", ([, one]) => count(one.applied), true],
      ["Repeated", ([, one]) => count(one.repeated), true],
      ["Refused", ([, one]) => count(one.refused), true],
      ["Staleness, mean / max", ([, one]) => staleness(map(one.staleness)), true],
    ],
    entries(known.tables),
    "No table exists yet.",
  );
}

function staleness(value) {
  return isNumber(value.mean) ? `${mean(value.mean)} / ${count(value.max)}` : DASH;
}

function renderPeer(status) {
  const peer = map(status.peer);
  const coordinator = map(status.coordinator);
  facts("this", [
    ["Name", text(peer.name)],
    ["Roles", list(peer.roles).join(", ") || "spare"],
    ["Address", text(peer.address)],
    ["Device", text(peer.device)],
    ["Up for", duration(peer.uptime)],
    ["Process", text(peer.pid)],
    ["Coordinator", `${text(coordinator.kind)}, ${text(coordinator.state)}`],
    ["Leader's term", list(coordinator.term).join(" / ") || DASH],
  ]);
}

function renderTitle(status) {
  const run = map(status.run);
  const progress = run.examples_wanted > 0 ? `${Math.floor((100 * run.examples) / run.examples_wanted)} % ` : "";
  document.title = `${progress}${text(map(status.peer).name)} · ${text(status.cluster)}`;
}

// Following the peer

let heard = null; // the Date of the last document
let began = Date.now();
let events = null;
let listenedAt = 0;
let asking = false;

function link(state, words) {
  page("link").dataset.state = state;
  write(page("link"), words);
}

function take(status, state, words) {
  heard = new Date();
  link(state, words);
  const strange = status.version !== VERSION;
  show(page("banner"), strange);
  if (strange) {
    write(page("banner"), `This peer now writes version ${text(status.version)} of its status: reload the page.`);
    return;
  }
  renderTitle(status);
  renderHead(status);
  renderRun(status);
  renderMembers(status);
  renderTables(status);
  renderPeer(status);
  show(page("main"), true);
  page("main").removeAttribute("data-stale");
}

function gone() {
  const words = heard === null ? "This peer does not answer." : `This peer stopped answering at ${heard.toLocaleTimeString("en-GB")}.`;
  link("gone", "no answer");
  write(page("banner"), heard === null ? words : `${words} What follows is the last it said.`);
  show(page("banner"), true);
  page("main").setAttribute("data-stale", "");
  document.title = `gone · ${document.title.replace(/^gone · /, "")}`;
}

function listen() {
  listenedAt = Date.now();
  events?.close();
  events = new EventSource("/events");
  events.onmessage = (event) => take(JSON.parse(event.data), "live", "live");
}

async function ask() {
  if (asking) return;
  asking = true;
  const status = await fetched();
  asking = false;
  if (status !== null) take(status, "poll", "polling");
  else if (!document.hidden) gone();
}

async function fetched() {
  try {
    const answer = await fetch("/status", { signal: AbortSignal.timeout(POLL_DEADLINE), cache: "no-store" });
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

function watch() {
  if (document.hidden) return;
  const silent = Date.now() - (heard === null ? began : heard.getTime());
  if (silent < STALE && page("link").dataset.state !== "poll") return;
  // A browser gives up on events that were answered with an error, such as too many listeners.
  if (Date.now() - listenedAt > LISTEN_AGAIN) listen();
  ask();
}

document.addEventListener("visibilitychange", () => {
  // A tab that nobody sees needs no events, and a browser has few connections for one host.
  if (document.hidden) {
    events?.close();
    return;
  }
  began = Date.now();
  listen();
});

listen();
setInterval(watch, 1000);
