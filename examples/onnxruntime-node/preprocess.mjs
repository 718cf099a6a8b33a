// From raw values to the inputs of the encoder graphs, by the numbers of manifest.json.
import { Tensor } from "onnxruntime-node";

/** Token ids, with their special tokens. */
function text(ids, { max_length, pad_to_max, pad_id }) {
  const kept = ids.length > max_length ? [...ids.slice(0, max_length - 1), ids.at(-1)] : ids;
  const length = pad_to_max ? max_length : kept.length;
  const padded = Array.from({ length }, (_, n) => BigInt(kept[n] ?? pad_id));
  const mask = Array.from({ length }, (_, n) => BigInt(n < kept.length ? 1 : 0));
  return {
    input_ids: new Tensor("int64", BigInt64Array.from(padded), [1, length]),
    attention_mask: new Tensor("int64", BigInt64Array.from(mask), [1, length]),
  };
}

/** The bytes of an image that has the size of the manifest: row by row, RGB or grey. */
function image(bytes, { size: [height, width], channels, mean, std, channel_order, frames }) {
  if (frames !== null) throw new Error("this example takes one image, not several frames");
  const area = height * width;
  if (bytes.length !== area * channels) {
    throw new Error(`expected ${height} x ${width} x ${channels} bytes, got ${bytes.length}`);
  }
  const pixels = new Float32Array(area * channels);
  for (let channel = 0; channel < channels; channel++) {
    const source = channel_order === "bgr" ? channels - 1 - channel : channel;
    // One number may stand for all channels.
    const shift = mean[channel] ?? mean[0];
    const scale = std[channel] ?? std[0];
    for (let n = 0; n < area; n++) {
      pixels[channel * area + n] = (bytes[n * channels + source] / 255 - shift) / scale;
    }
  }
  return { pixels: new Tensor("float32", pixels, [1, channels, height, width]) };
}

/** Mono samples at the sample rate and of the length of the manifest. */
function audio(samples, { output, n_fft, hop_length, edges }) {
  if (output === "waveform") {
    return { waveform: new Tensor("float32", Float32Array.from(samples), [1, samples.length]) };
  }
  const half = Math.floor(n_fft / 2);
  const at = (n) => {
    if (edges !== "reflect") return samples[n] ?? 0;
    return samples[n < 0 ? -n : n >= samples.length ? 2 * (samples.length - 1) - n : n];
  };
  const angles = Array.from({ length: n_fft }, (_, n) => (2 * Math.PI * n) / n_fft);
  const [cosine, sine] = [angles.map(Math.cos), angles.map(Math.sin)];
  const window = cosine.map((value) => 0.5 - 0.5 * value);
  const bins = half + 1;
  const frames = Math.floor((samples.length + 2 * half - n_fft) / hop_length) + 1;
  const power = new Float32Array(bins * frames);
  for (let frame = 0; frame < frames; frame++) {
    const values = window.map((weight, n) => weight * at(frame * hop_length + n - half));
    for (let bin = 0; bin < bins; bin++) {
      let real = 0;
      let imaginary = 0;
      // The sum that defines the Fourier transform. A program would use a library's fast transform.
      for (let n = 0; n < n_fft; n++) {
        real += values[n] * cosine[(bin * n) % n_fft];
        imaginary += values[n] * sine[(bin * n) % n_fft];
      }
      power[bin * frames + frame] = real * real + imaginary * imaginary;
    }
  }
  return { power: new Tensor("float32", power, [1, bins, frames]) };
}

export const PREPROCESS = { audio, image, text };
