// Starts the page. A file of its own, so that another script which is missing, or too new for the browser, is reported.

import("./app.js").catch(() => {
  document.getElementById("status").textContent = "The page could not be started: a part of it did not load, or this browser is too old. Load it again.";
});
