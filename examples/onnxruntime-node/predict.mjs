// Predict one sample from the graphs of a bundle: node predict.mjs BUNDLE SAMPLE.json
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { PREPROCESS } from "./preprocess.mjs";

/** Run every encoder of a present modality, then the classifier. */
async function predict(folder, manifest, sample) {
  const names = Object.keys(manifest.modalities);
  const unknown = Object.keys(sample).filter((name) => !names.includes(name));
  if (unknown.length > 0 || Object.keys(sample).length === 0) {
    throw new Error(`expected any of ${names.join(", ")}, got ${unknown.join(", ") || "nothing"}`);
  }
  const size = manifest.feature_dim;
  // A slot per modality, in the order of the manifest; the slot of an absent modality stays 0.
  const features = new Float32Array(names.length * size);
  const present = new Uint8Array(names.length);
  for (const [slot, name] of names.entries()) {
    if (!(name in sample)) continue;
    const { kind, graph, preprocessing } = manifest.modalities[name];
    const encoder = await InferenceSession.create(join(folder, graph));
    const outputs = await encoder.run(PREPROCESS[kind](sample[name], preprocessing));
    features.set(outputs.features.data, slot * size);
    present[slot] = 1;
  }
  const classifier = await InferenceSession.create(join(folder, manifest.classifier));
  const outputs = await classifier.run({
    features: new Tensor("float32", features, [1, names.length, size]),
    present: new Tensor("bool", present, [1, names.length]),
  });
  return readOutputs(manifest, names, present, outputs);
}

function readOutputs({ labels, conformal }, names, present, outputs) {
  const probabilities = [...outputs.probabilities.data];
  const ranked = labels.map((_, index) => index);
  ranked.sort((a, b) => probabilities[b] - probabilities[a]);
  const subset = names.filter((_, slot) => present[slot]).join("+");
  const limit = conformal?.min_probabilities[subset] ?? 0;
  const set = ranked.filter((index, rank) => rank === 0 || probabilities[index] >= limit);
  return {
    label: labels[ranked[0]],
    confidence: probabilities[ranked[0]],
    probabilities: Object.fromEntries(labels.map((label, n) => [label, probabilities[n]])),
    prediction_set: set.map((index) => labels[index]),
    weights: Object.fromEntries(
      names.map((name, slot) => [name, present[slot] ? outputs.weights.data[slot] : 0]),
    ),
  };
}

const [folder, file] = process.argv.slice(2);
if (!file) throw new Error("usage: node predict.mjs BUNDLE SAMPLE.json");
const readJson = async (path) => JSON.parse(await readFile(path, "utf8"));
const manifest = await readJson(join(folder, "manifest.json"));
console.log(JSON.stringify(await predict(folder, manifest, await readJson(file))));
