// Where the focus goes when something takes the place of what was focused.

/** Focus what just appeared, so that the next key and the next word are there. */
export function arrive(node: HTMLElement): void {
  node.focus();
}
