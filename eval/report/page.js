// Shows the answers: unpacked from #data, filtered by #filter, a few problems at a time. All is set as text.
const PAGE = 20;
const form = document.getElementById("filter");
const list = document.getElementById("problems");
const more = document.getElementById("more");

const packed = Uint8Array.from(atob(document.getElementById("data").textContent), c => c.charCodeAt(0));
const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
const problems = await new Response(stream).json();

let filter = {};
let matching = [];

function makeElement(tag, className, ...content) {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...content);
  return element;
}

function makeAnswer(answer) {
  const isCorrect = answer.verdict === "correct";
  const mark = [isCorrect ? "✓ correct" : "✗ " + answer.verdict.replace("_", " ")];
  if (answer.kind && answer.kind !== answer.verdict) mark.push(answer.kind);
  const extracted = answer.extracted === null ? "no answer" : `answer ${answer.extracted}`;

  const element = makeElement("div", `answer ${answer.verdict}`,
    makeElement("b", "", answer.label),
    makeElement("div", "mark", mark.join(", ")),
    makeElement("div", "quiet", `${extracted}, ${answer.tokens} tokens`));

  if (answer.thought) {
    const summary = makeElement("summary", "", answer.closed ? "thought" : "thought, not closed");
    const thought = makeElement("details", "", summary, makeElement("p", "text", answer.thought));
    thought.open = Boolean(filter.unfold);
    element.append(thought);
  }
  element.append(makeElement("p", "text", answer.rest));
  return element;
}

function makeProblem(problem) {
  const about = [problem.benchmark, `level ${problem.level}`];
  if (problem.family) about.push(problem.family);

  const element = makeElement("article", "",
    makeElement("p", "question", problem.question),
    makeElement("p", "quiet", `${about.join(", ")}; correct: `, makeElement("b", "", problem.answer)));

  for (const run of new Set(problem.answers.map(answer => answer.run))) {
    const answers = problem.answers.filter(answer => answer.run === run);
    element.append(makeElement("div", "answers", ...answers.map(makeAnswer)));
  }
  return element;
}

// Each filter offers the values that occur, of problems or of answers.
function fillFilters() {
  for (const select of form.querySelectorAll("select")) {
    const read = record => record[select.name] ?? record.answers.map(answer => answer[select.name]);
    const values = [...new Set(problems.flatMap(read))].filter(value => value !== "");
    if (select.name === "level") values.sort((a, b) => a - b);
    for (const value of values) select.add(new Option(value));
  }
}

function agrees(record, keys) {
  return keys.every(key => !filter[key] || String(record[key]) === filter[key]);
}

function matches(problem) {
  if (!agrees(problem, ["benchmark", "level", "family"])) return false;

  const text = (filter.text ?? "").toLowerCase();
  return problem.answers.some(answer =>
    agrees(answer, ["run", "stage", "verdict", "kind"]) &&
    [problem.question, answer.thought, answer.rest].some(part => part.toLowerCase().includes(text)));
}

function showMore() {
  const shown = list.childElementCount;
  list.append(...matching.slice(shown, shown + PAGE).map(makeProblem));

  more.hidden = list.childElementCount === matching.length;
  const rest = more.hidden ? "" : `, the first ${list.childElementCount} of them below`;
  document.getElementById("count").textContent = `${matching.length} of ${problems.length} problems${rest}`;
}

function show() {
  filter = Object.fromEntries(new FormData(form));
  matching = problems.filter(matches);
  list.replaceChildren();
  showMore();
}

// The address keeps the filter, so a view can be sent to others, and the numbers above can lead to their answers.
function readAddress() {
  const values = new URLSearchParams(location.hash.slice(1));
  if (![...values.keys()].some(key => form.elements[key])) return false;

  form.reset();
  for (const [key, value] of values) {
    const field = form.elements[key];
    if (field?.type === "checkbox") field.checked = true;
    else if (field) field.value = value;
  }
  return true;
}

function scrollToAnswers() {
  document.getElementById("answers").scrollIntoView();
}

form.addEventListener("submit", event => event.preventDefault());
form.addEventListener("input", () => {
  const values = [...new FormData(form)].filter(([, value]) => value);
  history.replaceState(null, "", "#" + (values.length ? new URLSearchParams(values) : "answers"));
  show();
});
addEventListener("hashchange", () => {
  if (!readAddress()) return;
  show();
  scrollToAnswers();
});
more.addEventListener("click", showMore);

fillFilters();
const hasFilter = readAddress();
show();
if (hasFilter) scrollToAnswers();
