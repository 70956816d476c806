// What somebody meets who sees little, or works without a mouse: texts that stand out by less than
// 4.5:1 (WCAG 2.2, 1.4.3), and controls without a name.
() => {
  const numbers = (colour) => {
    const [red, green, blue, alpha = 1] = colour.match(/[\d.]+/g).map(Number);
    const scale = colour.startsWith("color(") ? 255 : 1;
    return [red * scale, green * scale, blue * scale, alpha];
  };
  const over = (top, below) =>
    [0, 1, 2].map((at) => top[at] * top[3] + below[at] * (1 - top[3])).concat(1);
  const behind = (element) => {
    const layers = [];
    for (let one = element; one; one = one.parentElement)
      layers.push(numbers(getComputedStyle(one).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const luminance = (colour) => {
    const [red, green, blue] = colour
      .slice(0, 3)
      .map((one) => one / 255)
      .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const said = (element) =>
    [...element.childNodes]
      .filter((one) => one.nodeType === Node.TEXT_NODE)
      .map((one) => one.textContent.trim())
      .join("") || (element.matches("input:is([type=text], [type=number]), textarea") && element.value);
  const faults = [];
  for (const element of document.querySelectorAll("body *")) {
    const {width, height} = element.getBoundingClientRect();
    if (width < 2 || height < 2) continue;
    if (!element.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    if (element.matches("input:not([type=file]), textarea, select, button, a, [role=slider]")) {
      const name =
        element.ariaLabel || element.innerText || element.title || element.labels?.[0]?.innerText ||
        document.getElementById(element.getAttribute("aria-labelledby"))?.innerText;
      if (!name?.trim()) faults.push(`no name: ${element.outerHTML.slice(0, 200)}`);
    }
    const text = said(element);
    if (!text || element.closest(":disabled, [aria-disabled=true]")) continue;
    const below = behind(element);
    const above = over(numbers(getComputedStyle(element).color), below);
    const [light, dark] = [luminance(below), luminance(above)].sort((one, other) => other - one);
    const ratio = (light + 0.05) / (dark + 0.05);
    if (ratio < 4.5) faults.push(`${ratio.toFixed(2)}: ${text} ${element.outerHTML.slice(0, 200)}`);
  }
  return faults;
}
