// client.py for Node: client.mjs PACKAGE FILE PIXELS. It must be beside the folder node_modules that
// has the package, because `import` searches there.

import { readFileSync } from "node:fs";

/** Read the float32 array [N,3,H,W] of an .npy file of version 1. */
function readPixels(path) {
  const bytes = readFileSync(path);
  const start = 10 + bytes.readUInt16LE(8);
  const header = bytes.toString("latin1", 10, start);
  const shape = /\(([^)]*)\)/.exec(header)[1].split(",").map(Number);
  const data = bytes.buffer.slice(bytes.byteOffset + start, bytes.byteOffset + bytes.length);
  return { shape, data: new Float32Array(data) };
}

/** Run all images, one at a time. */
async function scores(runtime, file, pixels) {
  const ort = await import(runtime);
  const session = await ort.InferenceSession.create(new Uint8Array(readFileSync(file)));
  const { shape, data } = readPixels(pixels);
  const size = data.length / shape[0];
  const rows = [];
  for (let image = 0; image < shape[0]; image++) {
    const values = data.slice(image * size, (image + 1) * size);
    const tensor = new ort.Tensor("float32", values, [1, ...shape.slice(1)]);
    const { logits } = await session.run({ pixels: tensor });
    rows.push(Array.from(logits.data));
  }
  return rows;
}

const [runtime, file, pixels] = process.argv.slice(2);
const manifest = new URL(`node_modules/${runtime}/package.json`, import.meta.url);
const answer = { version: JSON.parse(readFileSync(manifest)).version };
try {
  answer.scores = await scores(runtime, file, pixels);
} catch (error) {
  answer.error = String(error.message ?? error);
}
// onnxruntime-web keeps its threads; a pipe takes this much text only piece by piece
process.stdout.write("\n" + JSON.stringify(answer), () => process.exit(0));
