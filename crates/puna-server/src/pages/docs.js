// Shows /openapi.json and sends requests by hand. No library: everything must work offline.
"use strict";

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function typeOf(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const options = schema.anyOf || schema.oneOf;
  if (options) return options.map(typeOf).join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items || {})}`;
  const range = [schema.minimum, schema.maximum].some((bound) => bound !== undefined)
    ? ` ${schema.minimum ?? ""}…${schema.maximum ?? ""}` : "";
  return (Array.isArray(schema.type) ? schema.type.join(" or ") : schema.type || "anything") + range;
}

function fieldTable(schema) {
  const required = new Set(schema.required || []);
  const rows = Object.entries(schema.properties || {}).map(([name, field]) =>
    element("tr", {},
      element("td", {}, element("code", { textContent: name }), required.has(name) ? " (required)" : ""),
      element("td", { textContent: typeOf(field) }),
      element("td", { textContent: field.description || "" })));
  const head = element("tr", {}, ...["field", "type", ""].map((text) => element("th", { textContent: text })));
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
}

function tryOut(path, method, example) {
  const body = element("textarea", { value: JSON.stringify(example ?? {}, null, 2), spellcheck: false });
  body.setAttribute("aria-label", `Body of ${method} ${path}`);
  const key = element("input", { type: "password", placeholder: "API key, if the server wants one", autocomplete: "off" });
  key.setAttribute("aria-label", "API key");
  const answer = element("pre", { textContent: "" });
  const send = element("button", { textContent: "Send" });
  send.addEventListener("click", async () => {
    answer.textContent = "";
    const options = { method: method.toUpperCase(), headers: {} };
    if (key.value) options.headers.Authorization = `Bearer ${key.value}`;
    if (method === "post") {
      options.headers["Content-Type"] = "application/json";
      options.body = body.value;
    }
    try {
      const response = await fetch(path, options);
      answer.textContent = `${response.status}\n`;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        answer.textContent += part.value;
      }
    } catch (error) {
      answer.textContent += String(error);
    }
  });
  return element("div", {}, ...(method === "post" ? [body] : []), element("p", {}, key, " ", send), answer);
}

async function show() {
  const description = await (await fetch("/openapi.json")).json();
  const resolve = (schema) => schema && schema.$ref
    ? description.components.schemas[schema.$ref.split("/").pop()] : schema || {};
  const sections = [];
  for (const [path, operations] of Object.entries(description.paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      const content = operation.requestBody?.content["application/json"];
      sections.push(element("details", {},
        element("summary", {}, element("code", { textContent: `${method.toUpperCase()} ${path}` }), ` ${operation.summary}`),
        element("p", { textContent: operation.description || "" }),
        ...(content ? [fieldTable(resolve(content.schema))] : []),
        tryOut(path, method, content?.example)));
    }
  }
  document.getElementById("paths").replaceChildren(...sections);
}

show().catch((error) => {
  document.getElementById("paths").textContent = `The description could not be read: ${error}`;
});
