// Leaving in the middle of an answer ends it, and what came is paid: the browser asks first.

function ask(event: BeforeUnloadEvent): void {
  event.preventDefault();
}

/** Have the browser ask, in its own words, before this page is left; returns what ends that. */
export function askBeforeLeaving(): () => void {
  addEventListener("beforeunload", ask);
  return () => removeEventListener("beforeunload", ask);
}
