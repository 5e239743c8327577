// Tables and code blocks that are wider than the page can be scrolled with the keyboard.
for (const box of document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code")) {
  box.tabIndex = 0;
}
