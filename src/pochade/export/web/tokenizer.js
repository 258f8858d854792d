// From a prompt to token ids, by a tokenizer.json: WordPiece (as BERT, MiniLM) and byte-level BPE.

import { PageError } from "./files.js";
import { CONTROL, MARKS, PUNCTUATION } from "./unicode.js";

const IDEOGRAPH = /[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u{20000}-\u{2a6df}\u{2a700}-\u{2b81f}\u{2b920}-\u{2ceaf}\u{2f800}-\u{2fa1f}]/gu;
const WORDS = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu; // of GPT-2

/**
 * A function from a prompt to its ids, special tokens included, neither cut nor padded. `emoji` has what takes the place
 * of a character before.
 */
export function makeTokenizer(json, emoji = {}) {
  const normalise = normaliser(json.normalizer);
  const split = splitter(json.pre_tokenizer);
  const wordIds = { WordPiece: wordPiece, BPE: bytePairs }[json.model.type]?.(json.model);
  if (!wordIds) throw new PageError(`This page cannot read a tokenizer of the kind ${json.model.type}.`);
  const added = new Map(json.added_tokens.map((token) => [token.content, token.id]));
  const special = [...added.keys()].map((text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const cut = special.length ? new RegExp(`(${special.sort((a, b) => b.length - a.length).join("|")})`, "u") : null;
  const wrap = wrapper(json.post_processor);
  return (prompt) => {
    const text = Array.from(prompt.toWellFormed(), (letter) => emoji[letter] ?? letter).join("");
    const parts = cut ? text.split(cut) : [text];
    const ids = [];
    for (const part of parts.filter(Boolean)) {
      if (added.has(part)) ids.push(added.get(part));
      else for (const word of split(normalise(part))) ids.push(...wordIds(word));
    }
    return wrap(ids);
  };
}

function normaliser(given) {
  switch (given?.type) {
    case undefined:
      return (text) => text;
    case "Sequence": {
      const steps = given.normalizers.map(normaliser);
      return (text) => steps.reduce((value, step) => step(value), text);
    }
    case "NFC":
    case "NFD":
    case "NFKC":
    case "NFKD":
      return (text) => text.normalize(given.type);
    case "Lowercase":
      return lower;
    case "Strip":
      return (text) => text.trim();
    case "BertNormalizer":
      return (text) => {
        if (given.clean_text) text = text.replace(/[\t\n\r]/g, " ").replace(CONTROL, "").replace(/\s/gu, " ");
        if (given.handle_chinese_chars) text = text.replace(IDEOGRAPH, " $& ");
        if (given.strip_accents ?? given.lowercase) text = text.normalize("NFD").replace(MARKS, "");
        return given.lowercase ? lower(text) : text;
      };
    default:
      throw new PageError(`This page cannot read a tokenizer with the normalizer ${given.type}.`);
  }
}

/** Letter by letter, as the library does: a sigma that ends a word stays the one that it has always been. */
const lower = (text) => Array.from(text, (letter) => letter.toLowerCase()).join("");

function splitter(given) {
  if (given?.type === "BertPreTokenizer") {
    return (text) => text.replace(PUNCTUATION, " $& ").split(/\s+/u).filter(Boolean);
  }
  if (given?.type === "ByteLevel" && given.use_regex !== false) {
    const letters = byteLetters(), encoder = new TextEncoder();
    return (text) => {
      if (given.add_prefix_space && text && !text.startsWith(" ")) text = ` ${text}`;
      return (text.match(WORDS) ?? []).map((word) => Array.from(encoder.encode(word), (b) => letters[b]).join(""));
    };
  }
  throw new PageError(`This page cannot read a tokenizer with the pre-tokenizer ${given?.type}.`);
}

/** A visible letter for each byte, as GPT-2 has them. */
function byteLetters() {
  const visible = (b) => (b > 32 && b < 127) || (b > 160 && b < 173) || b > 173;
  let next = 256;
  return Array.from({ length: 256 }, (_, b) => String.fromCodePoint(visible(b) ? b : next++));
}

function wordPiece({ vocab, unk_token, continuing_subword_prefix, max_input_chars_per_word }) {
  const ids = new Map(Object.entries(vocab)), unknown = [vocab[unk_token]];
  return (word) => {
    const letters = Array.from(word), found = [];
    if (letters.length > max_input_chars_per_word) return unknown;
    for (let start = 0, end; start < letters.length; start = end) {
      const prefix = start ? continuing_subword_prefix : "";
      end = letters.length;
      while (end > start && !ids.has(prefix + letters.slice(start, end).join(""))) end--;
      if (end === start) return unknown;
      found.push(ids.get(prefix + letters.slice(start, end).join("")));
    }
    return found;
  };
}

function bytePairs({ vocab, merges, end_of_word_suffix, continuing_subword_prefix }) {
  if (end_of_word_suffix || continuing_subword_prefix) throw new PageError("This page cannot read BPE with affixes.");
  const rank = new Map(merges.map((pair, i) => [Array.isArray(pair) ? pair.join(" ") : pair, i]));
  const ids = new Map(Object.entries(vocab));
  return (word) => {
    const parts = Array.from(word);
    for (;;) {
      let best = Infinity, at = -1;
      for (let i = 0; i + 1 < parts.length; i++) {
        const place = rank.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity;
        if (place < best) [best, at] = [place, i];
      }
      if (at < 0) return parts.filter((part) => ids.has(part)).map((part) => ids.get(part));
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
  };
}

function wrapper(given) {
  if (!given || given.type === "ByteLevel") return (ids) => ids;
  if (given.type !== "TemplateProcessing") {
    throw new PageError(`This page cannot read a tokenizer with the post-processor ${given.type}.`);
  }
  return (ids) => given.single.flatMap((part) => (part.Sequence ? ids : given.special_tokens[part.SpecialToken.id].ids));
}

/** Ids cut and padded to what the text encoder takes, and how many of them are real. */
export function fitted(ids, { max_tokens, closing_tokens }) {
  const kept = ids.length <= max_tokens ? ids : [...ids.slice(0, max_tokens - closing_tokens), ...ids.slice(ids.length - closing_tokens)];
  const padded = new BigInt64Array(max_tokens);
  kept.forEach((id, i) => (padded[i] = BigInt(id)));
  return { ids: padded, mask: Uint8Array.from({ length: max_tokens }, (_, i) => +(i < kept.length)), cut: ids.length - kept.length };
}
