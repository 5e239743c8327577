// What the theme's own markup lacks for a reader who uses the keyboard or a screen reader.
document.querySelector(".md-search")?.setAttribute("aria-label", "Search");

// Tables and code that are wider than the page can be scrolled with the arrow keys. The theme wraps
// tables after this script has run, so new boxes are looked for, too.
function makeScrollable() {
  for (const box of document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code")) {
    box.tabIndex = 0;
  }
}
makeScrollable();
new MutationObserver(makeScrollable).observe(document.body, { childList: true, subtree: true });

// Several tables of contents need names that tell them apart.
document.querySelectorAll("nav").forEach((nav, number) => {
  const label = nav.getAttribute("aria-label");
  const same = label && document.querySelectorAll(`nav[aria-label="${label}"]`).length > 1;
  if (same) nav.setAttribute("aria-label", `${label} ${number + 1}`);
});
