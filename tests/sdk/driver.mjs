// What driver.py does, with the SDK for Node: it makes the calls of a job (JSON on stdin) and prints what came of each.
//
// The SDK is that of the folder which the job names. Calls go by their Python names.

import { createRequire } from "node:module";
import { text as all } from "node:stream/consumers";

const CALLS = {
  "beta.threads.create_and_run": (sdk, ids, params, options) => sdk.beta.threads.createAndRun(params, options),
  "beta.threads.create_and_run_stream": (sdk, ids, params, options) => sdk.beta.threads.createAndRunStream(params, options),
  "beta.threads.runs.cancel": (sdk, { run_id, ...ids }, params, options) => sdk.beta.threads.runs.cancel(run_id, ids, options),
  "beta.threads.runs.create": (sdk, ids, params, options) => sdk.beta.threads.runs.create(ids.thread_id, params, options),
  "beta.threads.runs.list": (sdk, ids, params, options) => sdk.beta.threads.runs.list(ids.thread_id, params, options),
  "beta.threads.runs.retrieve": (sdk, { run_id, ...ids }, params, options) => sdk.beta.threads.runs.retrieve(run_id, ids, options),
  "beta.threads.runs.steps.list": (sdk, { run_id, ...ids }, params, options) =>
    sdk.beta.threads.runs.steps.list(run_id, { ...ids, ...params }, options),
  "beta.threads.runs.steps.retrieve": (sdk, { step_id, ...ids }, params, options) =>
    sdk.beta.threads.runs.steps.retrieve(step_id, { ...ids, ...params }, options),
  "beta.threads.runs.stream": (sdk, ids, params, options) => sdk.beta.threads.runs.stream(ids.thread_id, params, options),
  "beta.threads.runs.submit_tool_outputs": (sdk, { run_id, ...ids }, params, options) =>
    sdk.beta.threads.runs.submitToolOutputs(run_id, { ...ids, ...params }, options),
  "beta.threads.runs.submit_tool_outputs_stream": (sdk, { run_id, ...ids }, params, options) =>
    sdk.beta.threads.runs.submitToolOutputsStream(run_id, { ...ids, ...params }, options),
  "chat.completions.create": (sdk, ids, params, options) => sdk.chat.completions.create(params, options),
  "responses.create": (sdk, ids, params, options) => sdk.responses.create(params, options),
  "responses.retrieve": (sdk, ids, params, options) => sdk.responses.retrieve(ids.response_id, params, options),
  post: (sdk, ids, body, options, path) => sdk.post(path, { body, stream: true, ...options }),
};

// Parameters of a query that the SDK's methods take by themselves; others go in the options of the request.
const IN_QUERY = new Set(["after", "before", "include", "limit", "order", "starting_after", "stream"]);

const FINALS = ["finalRun", "finalMessages", "finalRunSteps"];

const job = JSON.parse(await all(process.stdin));
const { OpenAI } = createRequire(job.folder + "/")("openai");

for (const call of job.calls) {
  const said = { events: [], callbacks: [], finals: {}, result: null, response: null, errors: {}, match: null };
  try {
    await make(call, said);
  } catch (error) {
    said.errors.call = described(error);
  }
  console.log(JSON.stringify(said));
}

async function make(call, said) {
  const sdk = new OpenAI({
    apiKey: "sk-matrix",
    baseURL: job.origin + call.base,
    defaultHeaders: { [job.header]: call.name },
    maxRetries: call.retries,
    timeout: 60_000,
    logLevel: "off",
  });
  const entries = Object.entries(call.query);
  const known = Object.fromEntries(entries.filter(([name]) => IN_QUERY.has(name)));
  const extra = Object.fromEntries(entries.filter(([name]) => !IN_QUERY.has(name)));
  const options = Object.keys(extra).length ? { query: extra } : undefined;
  const asked = CALLS[call.sdk](sdk, call.ids, { ...known, ...call.body }, options, call.path.slice(call.base.length));
  if (call.sdk.endsWith("stream")) {
    asked.on("event", (event) => said.callbacks.push(event.event)).on("error", () => said.callbacks.push("error"));
    await hear(asked, said);
    for (const name of FINALS) {
      try {
        said.finals[name] = JSON.stringify(await asked[name]());
      } catch (error) {
        said.errors[name] = described(error);
      }
    }
    return;
  }
  const { data, response } = await asked.withResponse();
  if (!(Symbol.asyncIterator in data) || "getPaginatedItems" in data) {
    said.result = [JSON.stringify(data), data._request_id];
    return;
  }
  const headers = Object.fromEntries(["content-type", "x-request-id"].map((name) => [name, response.headers.get(name)]));
  said.response = { status: response.status, headers };
  said.match = response.headers.get("x-recorder-match");
  await hear(data, said);
}

async function hear(stream, said) {
  for await (const event of stream) {
    said.events.push([event.event ?? event.type ?? event.object ?? null, JSON.stringify(event)]);
  }
}

// The type and the message of an error, and of those that it came from.
function described(error) {
  const said = [];
  for (let at = error; at instanceof Error; at = at.cause) {
    said.push(`${at.constructor.name} ${at.code ?? ""}: ${at.message}`);
  }
  return said;
}
