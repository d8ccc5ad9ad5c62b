/** Draws a grey picture with characters, as print does with halftone dots: the darker the cell, the more of it is filled. */

/** From empty to full in four steps (Unicode block elements). */
const shades = [' ', '░', '▒', '▓', '█'];

/**
 * The picture as lines of text. A character is about twice as high as wide, so each stands for two rows of pixels.
 * @param pixels height·width values 0 … 255, row by row
 */
export function drawPicture(pixels: ArrayLike<number>, width: number, height: number): string[] {
  const lines: string[] = [];
  for (let row = 0; row < height; row += 2) {
    let line = '';
    for (let column = 0; column < width; column++) {
      const upper = pixels[row * width + column];
      const lower = row + 1 < height ? pixels[(row + 1) * width + column] : 0;
      const shade = Math.min(shades.length - 1, Math.floor((((upper + lower) / 2) * shades.length) / 256));
      line += shades[shade];
    }
    lines.push(line);
  }
  return lines;
}
