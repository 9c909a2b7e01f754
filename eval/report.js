// Shows the answers of the page: unpacked from #data, filtered by #filter, a few problems at a time. All is set as text.
const PAGE = 20;
const form = document.getElementById("filter");
const place = document.getElementById("problems");
const more = document.getElementById("more");

const packed = Uint8Array.from(atob(document.getElementById("data").textContent), c => c.charCodeAt(0));
const problems = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"))).json();

function element(tag, className, ...content) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...content);
  return made;
}

function shownAnswer(answer, unfold) {
  const right = answer.verdict === "correct";
  const cost = `${answer.extracted === null ? "no answer" : `answer ${answer.extracted}`}, ${answer.tokens} tokens`;
  const made = element("div", `answer ${answer.verdict}`,
    element("b", "", answer.label),
    element("div", "mark", [right ? "✓ right" : "✗ wrong", ...(answer.kind ? [answer.kind] : [])].join(", ")),
    element("div", "quiet", cost));
  if (answer.thought) {
    const thought = element("details", "", element("summary", "", answer.closed ? "thought" : "thought, not closed"),
      element("p", "text", answer.thought));
    thought.open = unfold;
    made.append(thought);
  }
  made.append(element("p", "text", answer.rest));
  return made;
}

function shownProblem(problem, unfold) {
  const about = [problem.benchmark, `level ${problem.level}`, ...(problem.family ? [problem.family] : [])].join(", ");
  const made = element("article", "", element("p", "question", problem.question),
    element("p", "quiet", `${about}; right: `, element("b", "", problem.answer)));
  for (const base of new Set(problem.answers.map(a => a.base)))
    made.append(element("div", "answers",
      ...problem.answers.filter(a => a.base === base).map(a => shownAnswer(a, unfold))));
  return made;
}

function matches(problem, want) {
  const is = (of, keys) => keys.every(key => !want[key] || String(of[key]) === want[key]);
  const text = (want.text ?? "").toLowerCase();
  const holds = (...texts) => texts.some(t => t.toLowerCase().includes(text));
  return is(problem, ["benchmark", "level", "family"]) && problem.answers.some(
    a => is(a, ["base", "stage", "verdict", "kind"]) && holds(problem.question, a.thought, a.rest));
}

let found = [], want = {};
function showMore() {
  const next = found.slice(place.childElementCount, place.childElementCount + PAGE);
  place.append(...next.map(problem => shownProblem(problem, Boolean(want.unfold))));
  more.hidden = place.childElementCount === found.length;
  const shown = more.hidden ? "" : `, the first ${place.childElementCount} of them below`;
  document.getElementById("count").textContent = `${found.length} of ${problems.length} problems${shown}`;
}
function show() {
  want = Object.fromEntries(new FormData(form));
  found = problems.filter(problem => matches(problem, want));
  place.replaceChildren();
  showMore();
}

// The address keeps the filter, so that a view can be sent and the numbers above can lead to their answers.
function read() {
  const asked = new URLSearchParams(location.hash.slice(1));
  if (![...asked.keys()].some(key => form.elements[key])) return false;
  form.reset();
  for (const [key, value] of asked) {
    if (form.elements[key]?.type === "checkbox") form.elements[key].checked = true;
    else if (form.elements[key]) form.elements[key].value = value;
  }
  return true;
}
form.addEventListener("submit", event => event.preventDefault());
form.addEventListener("input", () => {
  const set = [...new FormData(form)].filter(([, value]) => value);
  history.replaceState(null, "", "#" + (set.length ? new URLSearchParams(set) : "answers"));
  show();
});
addEventListener("hashchange", () => {
  if (!read()) return;
  show();
  document.getElementById("answers").scrollIntoView();
});
more.addEventListener("click", showMore);
const asked = read();
show();
if (asked) document.getElementById("answers").scrollIntoView();
