"use strict"
// Hides the samples of a report that the reader does not ask for. Texts are compared and never
// become markup.
{
  const browse = document.querySelector(".browse")
  const filter = browse.querySelector(".filter")
  const found = browse.querySelector(".found")
  const value = name => filter.querySelector(`[name=${name}]`)?.value.trim().toLowerCase() ?? ""
  const number = value => value.toLocaleString("en")
  const total = browse.querySelectorAll(".sample").length
  const written = new Map()

  // What an element quotes, with the source of each formula in place of its rendering.
  const textOf = element => {
    if (!written.has(element)) {
      const copy = element.cloneNode(true)
      copy.querySelectorAll("math, .sample").forEach(one => one.remove())
      const quoted = [...copy.querySelectorAll("pre")].map(one => one.textContent)
      written.set(element, [element.dataset.id ?? "", ...quoted].join("\n").toLowerCase())
    }
    return written.get(element)
  }

  const isAsked = (sample, problem, asked) =>
    (!asked.run || sample.dataset.run === asked.run) &&
    (!asked.benchmark || problem.dataset.benchmark.toLowerCase() === asked.benchmark) &&
    (!asked.verdict || sample.dataset.verdict === asked.verdict ||
      (asked.verdict === "truncated" && "truncated" in sample.dataset)) &&
    (!asked.agreement || sample.dataset.agreement === asked.agreement) &&
    (!asked.shortest || Number(sample.dataset.length) >= Number(asked.shortest)) &&
    (!asked.longest || Number(sample.dataset.length) <= Number(asked.longest)) &&
    (!asked.words || textOf(problem).includes(asked.words) || textOf(sample).includes(asked.words))

  const show = () => {
    const asked = {}
    for (const field of filter.querySelectorAll("[name]")) asked[field.name] = value(field.name)
    let samples = 0
    let problems = 0
    for (const problem of browse.querySelectorAll(".problem")) {
      let shown = 0
      for (const sample of problem.querySelectorAll(".sample")) {
        sample.hidden = !isAsked(sample, problem, asked)
        shown += !sample.hidden
      }
      problem.hidden = shown === 0
      samples += shown
      problems += shown > 0
    }
    const word = problems === 1 ? "problem" : "problems"
    found.textContent = `${number(samples)} of ${number(total)} samples, ` +
      `of ${number(problems)} ${word}`
  }

  let waiting = 0
  filter.hidden = false
  filter.addEventListener("input", () => {
    clearTimeout(waiting)
    waiting = setTimeout(show, 150)
  })
  show()
}
