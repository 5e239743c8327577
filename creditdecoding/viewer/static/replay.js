open(traces);
const start = parseInt(location.hash.slice(1), 10);
now = start >= 0 ? Math.min(start, longest) : longest;
fit();
