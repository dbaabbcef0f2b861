for (const table of document.querySelectorAll("table.candidates")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = ({ cells }) => cells[column].dataset.key ?? cells[column].textContent;
    const isFigure = "key" in table.tBodies[0].rows[0].cells[column].dataset;
    const order = (a, b) => isFigure ? Number(a) - Number(b) : a.localeCompare(b);
    const rows = [...table.tBodies[0].rows].sort((one, two) => {
      const [a, b] = [key(one), key(two)];
      // What was not measured stays at the end, whatever the direction.
      if (a === "" || b === "") return (a === "") - (b === "");
      return down ? order(b, a) : order(a, b);
    });
    table.tBodies[0].append(...rows);
  }));
}
