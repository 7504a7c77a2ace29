// Reads a status document, any part of which may be missing, and writes its values as words.

export const DASH = "–";
export const map = (value) => (value !== null && typeof value === "object" && !Array.isArray(value) ? value : {});
export const list = (value) => (Array.isArray(value) ? value : []);
export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
export const text = (value) => (value === null || value === undefined || value === "" ? DASH : String(value));

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const count = (value) => (isNumber(value) ? grouped.format(value) : DASH);
export const loss = (value) => (isNumber(value) ? value.toPrecision(4) : DASH);
export const mean = (value) => (isNumber(value) ? value.toFixed(value < 10 ? 2 : 0) : DASH);
export const percent = (value) => (isNumber(value) ? `${(100 * value).toFixed(value < 1 ? 1 : 0)} %` : DASH);

export function duration(seconds) {
  if (!isNumber(seconds)) return DASH;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export function ago(seconds) {
  if (!isNumber(seconds)) return DASH;
  return seconds < 1 ? "just now" : `${duration(seconds)} ago`;
}

export function bytes(values) {
  if (!isNumber(values)) return DASH;
  let size = 4 * values;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (size < 1024) return `${size.toFixed(unit === "B" || size >= 100 ? 0 : 1)} ${unit}`;
    size /= 1024;
  }
  return `${size.toFixed(1)} TiB`;
}

// The address of a member's own page. One that listens on every address is reached where the peer is.
export function pageOf(member) {
  const found = /^(\[[0-9a-f:.%]+\]|[\w.-]+):(\d{1,5})$/i.exec(String(member.status ?? ""));
  if (!found) return null;
  let host = found[1];
  if (host === "0.0.0.0" || host === "[::]") {
    host = /^(\[[0-9a-f:.%]+\]|[\w.-]+):\d{1,5}$/i.exec(String(member.address ?? ""))?.[1] ?? location.hostname;
  }
  return `http://${host}:${found[2]}/`;
}
