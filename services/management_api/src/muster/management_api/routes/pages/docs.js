// Draws /openapi.json. No library and nothing from elsewhere; text is only ever set as text.

/** @typedef {Record<string, any>} Json */

/**
 * @param {string} tag
 * @param {Record<string, string>} attributes
 * @param {...(Node | string)} children
 */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** @param {string} text what stands between backticks is code @returns {Node[]} */
function spoken(text) {
  const said = (text ?? "").split("`");
  return said.map((part, at) => (at % 2 ? make("code", {}, part) : document.createTextNode(part)));
}

/** @param {string} text paragraphs, with an empty line between them @returns {Node[]} */
const paragraphs = (text) => (text ?? "").split("\n\n").map((one) => make("p", {}, ...spoken(one)));

/** @param {string} id */
const byId = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

/** @type {Json} */
let api = {};

/** @param {Json} part @returns {Json} */
function resolved(part) {
  if (!part?.$ref) return part ?? {};
  const [, , room, name] = part.$ref.split("/");
  return api.components[room][name] ?? {};
}

/** @param {Json} schema @returns {string} */
function kind(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.enum) return schema.enum.map((/** @type {any} */ one) => JSON.stringify(one)).join(" | ");
  if (schema.anyOf) return schema.anyOf.map(kind).join(" | ");
  if (schema.type === "array") return `${kind(schema.items ?? {}) || "any"}[]`;
  if (schema.type === "object" && schema.additionalProperties && schema.additionalProperties !== true)
    return `{string: ${kind(schema.additionalProperties) || "any"}}`;
  const bounds = [];
  if (schema.minimum !== undefined) bounds.push(`≥ ${schema.minimum}`);
  if (schema.exclusiveMinimum !== undefined) bounds.push(`> ${schema.exclusiveMinimum}`);
  if (schema.maximum !== undefined) bounds.push(`≤ ${schema.maximum}`);
  if (schema.maxLength !== undefined) bounds.push(`at most ${schema.maxLength} characters`);
  if (schema.pattern && !schema.description) bounds.push(schema.pattern);
  if (schema.format) bounds.push(schema.format);
  return [schema.type ?? "any", bounds.length ? `(${bounds.join(", ")})` : ""].filter(Boolean).join(" ");
}

/** @param {Json} schema @param {string[]} seen @returns {Node} */
function fields(schema, seen = []) {
  const whole = resolved(schema);
  if (!whole.properties) return make("code", {}, kind(schema));
  const rows = Object.entries(whole.properties).map(([name, property]) => {
    const shown = make("td", {}, make("code", {}, kind(property)), " ", ...spoken(property.description));
    const inner = [property, property.items, property.additionalProperties, ...(property.anyOf ?? [])].find((one) => one?.$ref);
    if (inner && !seen.includes(inner.$ref))
      shown.append(make("details", {}, make("summary", {}, kind(inner)), make("div", {}, fields(inner, [...seen, inner.$ref]))));
    const needed = whole.required?.includes(name) ? "" : ` = ${JSON.stringify(property.default ?? null)}`;
    return make("tr", {}, make("td", {}, make("code", {}, name), make("span", { class: "soft" }, needed)), shown);
  });
  const said = whole.description ? [make("p", { class: "soft" }, ...spoken(whole.description))] : [];
  return make("div", {}, ...said, make("table", {}, make("tbody", {}, ...rows)));
}

/** @param {any} value */
const pretty = (value) => make("pre", {}, JSON.stringify(value, null, 2));

/** @param {Json} content @returns {Node[]} */
function contents(content) {
  return Object.entries(content ?? {}).flatMap(([media, described]) => {
    const shown = [make("p", { class: "soft" }, media)];
    if (described.schema && !media.startsWith("text/")) shown.push(/** @type {HTMLElement} */ (fields(described.schema)));
    if (described.example !== undefined) shown.push(pretty(described.example));
    return shown;
  });
}

/** @param {string} path @param {string} method @param {Json} operation */
function trying(path, method, operation) {
  const parameters = (operation.parameters ?? []).map(resolved);
  /** @type {Map<Json, HTMLInputElement>} */
  const inputs = new Map();
  const rows = parameters.map((/** @type {Json} */ parameter) => {
    const input = /** @type {HTMLInputElement} */ (make("input", { "aria-label": parameter.name, autocomplete: "off" }));
    inputs.set(parameter, input);
    return make("tr", {}, make("td", {}, make("code", {}, parameter.name)), make("td", {}, input));
  });
  const example = operation.requestBody?.content["application/json"].example;
  const body = /** @type {HTMLTextAreaElement} */ (make("textarea", { "aria-label": "body", spellcheck: "false" }));
  if (operation.requestBody) body.value = JSON.stringify(example ?? {}, null, 2);
  const answered = make("div", { "aria-live": "polite" });
  const send = make("button", { type: "button" }, "Send");
  send.addEventListener("click", async () => {
    let url = path;
    const query = new URLSearchParams();
    /** @type {Record<string, string>} */
    const headers = { Accept: "application/json" };
    for (const [parameter, input] of inputs) {
      if (!input.value) continue;
      if (parameter.in === "path") url = url.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
      else if (parameter.in === "query") query.append(parameter.name, input.value);
      else headers[parameter.name] = input.value;
    }
    const key = /** @type {HTMLInputElement} */ (byId("key")).value;
    if (key) headers.Authorization = `Bearer ${key}`;
    if (operation.requestBody) headers["Content-Type"] = "application/json";
    answered.replaceChildren(make("p", { class: "soft" }, "…"));
    try {
      const reply = await fetch(query.size ? `${url}?${query}` : url, {
        method: method.toUpperCase(),
        headers,
        body: operation.requestBody ? body.value : undefined,
        signal: AbortSignal.timeout(15000),
      });
      const text = await reply.text();
      const told = ["etag", "location", "retry-after", "x-trace-id"].filter((name) => reply.headers.get(name));
      let shown = text;
      try {
        shown = JSON.stringify(JSON.parse(text), null, 2);
      } catch {
        // not JSON: shown as it came
      }
      answered.replaceChildren(
        make("p", {}, make("b", {}, `${reply.status}`), ` ${told.map((name) => `${name}: ${reply.headers.get(name)}`).join("  ")}`),
        make("pre", {}, shown),
      );
    } catch (error) {
      answered.replaceChildren(make("p", {}, `no answer: ${error}`));
    }
  });
  const parts = [make("table", {}, make("tbody", {}, ...rows)), ...(operation.requestBody ? [body] : []), send, answered];
  return make("details", {}, make("summary", {}, "Try it"), make("div", {}, ...parts));
}

/** @param {string} path @param {string} method @param {Json} operation */
function drawn(path, method, operation) {
  const parameters = (operation.parameters ?? []).map(resolved).map((/** @type {Json} */ one) =>
    make(
      "tr",
      {},
      make("td", {}, make("code", {}, one.name), make("span", { class: "soft" }, ` ${one.in}${one.required ? ", required" : ""}`)),
      make("td", {}, make("code", {}, kind(one.schema)), " ", ...spoken(one.description)),
    ),
  );
  const responses = Object.entries(operation.responses).map(([status, response]) => {
    const described = resolved(response);
    const says = make("summary", {}, make("b", {}, status), " ", ...spoken(described.description));
    return make("details", {}, says, make("div", {}, ...contents(described.content)));
  });
  const body = operation.requestBody ? [make("h4", {}, "Body"), ...contents(operation.requestBody.content)] : [];
  const open = operation.security?.length === 0 ? [make("p", { class: "soft" }, "Needs no key.")] : [];
  const inside = make(
    "div",
    {},
    ...paragraphs(operation.description),
    ...open,
    ...(parameters.length ? [make("h4", {}, "Parameters"), make("table", {}, make("tbody", {}, ...parameters))] : []),
    ...body,
    make("h4", {}, "Answers"),
    ...responses,
    trying(path, method, operation),
  );
  const summary = make(
    "summary",
    {},
    make("span", { class: `method ${method}` }, method.toUpperCase()),
    make("code", {}, path),
    make("span", { class: "says" }, operation.summary),
  );
  const words = `${method} ${path} ${operation.operationId} ${operation.summary} ${operation.description}`.toLowerCase();
  return make("details", { id: operation.operationId, "data-words": words }, summary, inside);
}

function opened() {
  const target = document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) {
    target.open = true;
    target.scrollIntoView();
  }
}

/** @param {string} text */
function find(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  for (const one of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-words]"))) {
    const found = words.every((word) => one.dataset.words?.includes(word));
    one.classList.toggle("hidden", !found);
    document.querySelector(`nav a[href="#${one.id}"]`)?.classList.toggle("hidden", !found);
  }
}

async function draw() {
  api = await (await fetch("/openapi.json")).json();
  byId("version").textContent = api.info.version;
  const page = paragraphs(api.info.description);
  const contents = [];
  for (const tag of api.tags) {
    page.push(make("h2", { id: `tag-${tag.name}` }, tag.name), make("p", { class: "soft" }, tag.description));
    contents.push(make("h3", {}, tag.name));
    for (const [path, methods] of Object.entries(api.paths))
      for (const [method, operation] of Object.entries(methods))
        if (operation.tags.includes(tag.name)) {
          page.push(drawn(path, method, operation));
          contents.push(make("a", { href: `#${operation.operationId}` }, operation.summary));
        }
  }
  byId("operations").replaceChildren(...page);
  byId("contents").replaceChildren(...contents);
  opened();
}

addEventListener("hashchange", opened);
byId("find").addEventListener("input", (event) => find(/** @type {HTMLInputElement} */ (event.target).value));
draw().catch((error) => byId("operations").replaceChildren(make("p", {}, `The description could not be read: ${error}`)));
