// Foreign text in a harmless, visible form. It is only ever inserted as textContent.

// Control, format (a change of direction), half of a surrogate pair, line and paragraph end.
const STEERING = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;
const KEPT = "\n\t\u200c\u200d"; // ordinary white space; the joiners of Persian words and of emoji

/** The text with each steering character as an escape such as \u202e. */
export function visible(text) {
  return text.replace(STEERING, (found) => {
    if (KEPT.includes(found)) return found;
    return "\\u" + found.codePointAt(0).toString(16).padStart(4, "0");
  });
}

/** A new element. `fields`: its properties; `children`: elements, or texts inserted as text. */
export function element(tag, fields = {}, ...children) {
  const made = Object.assign(document.createElement(tag), fields);
  made.append(...children);
  return made;
}

/** A number with two digits, or a dash. */
export function digits(value, places = 2) {
  if (!Number.isFinite(value)) return "–";
  const written = value.toFixed(places);
  return Number(written) === 0 ? written.replace("-", "") : written.replace("-", "−");
}

let endToken = null; // the id of the token that ends a text

export function endsWith(token) {
  endToken = token;
}

export function isEnd(token) {
  return token.token === endToken;
}

/** The words of a token; an end token has none of its own. The server made them visible. */
export function wordsOf(token) {
  return isEnd(token) ? "end" : token.text;
}
