// Passkeys (WebAuthn): made and used by the browser; the server proves what comes back.

import { post } from "../api/http";
import { WalletError } from "../pay/wallet";

interface Options {
  options: unknown;
}

export interface Opened {
  account: string;
  asset: string;
  expires_at_ms: number;
}

interface Statics {
  parseCreationOptionsFromJSON?(options: unknown): PublicKeyCredentialCreationOptions;
  parseRequestOptionsFromJSON?(options: unknown): PublicKeyCredentialRequestOptions;
}

function statics(): Statics | undefined {
  return (globalThis as { PublicKeyCredential?: Statics }).PublicKeyCredential;
}

export interface NoPasskey {
  reason: string;
  /** The same page, where it would work; null where this browser cannot know. */
  instead: string | null;
}

const ADDRESS = /^[\d.]+$|^\[/;
const LOOPBACK = /^127\.|^\[::1\]$/;

/** Why no passkey can be made on this page; null where one can. */
export function whyNot(at: Location | URL = location): NoPasskey | null {
  if (ADDRESS.test(at.hostname)) {
    // WebAuthn: a relying party is a name; browsers refuse an address.
    const instead = new URL(at.href);
    instead.hostname = "localhost";
    const isHere = LOOPBACK.test(at.hostname);
    return {
      reason: `Passkeys belong to a name, and ${at.hostname} is an address.`,
      instead: isHere ? instead.href : null,
    };
  }
  if (!globalThis.isSecureContext) {
    return { reason: "Browsers make passkeys over https only.", instead: null };
  }
  if (!statics()?.parseCreationOptionsFromJSON) {
    return { reason: "This browser makes no passkeys here.", instead: null };
  }
  return null;
}

/** Make a passkey: a new account, or one more key of the account that is signed in. */
export async function create(): Promise<Opened> {
  const { options } = await post<Options>("/v1/accounts/passkey/challenge");
  const publicKey = statics()!.parseCreationOptionsFromJSON!(options);
  const credential = await asked(() => navigator.credentials.create({ publicKey }));
  return post<Opened>("/v1/accounts/passkey", { credential });
}

/** Sign in with a passkey that this pool knows. */
export async function signIn(): Promise<Opened> {
  const { options } = await post<Options>("/v1/sign-in/passkey/challenge");
  const publicKey = statics()!.parseRequestOptionsFromJSON!(options);
  const credential = await asked(() => navigator.credentials.get({ publicKey }));
  return post<Opened>("/v1/sign-in/passkey", { credential });
}

async function asked(call: () => Promise<Credential | null>): Promise<unknown> {
  try {
    return ((await call()) as PublicKeyCredential).toJSON();
  } catch (error) {
    const said = error instanceof DOMException && error.name === "NotAllowedError";
    throw new WalletError(
      said ? "rejected" : "failed",
      said ? "No passkey was used: it was declined, or took too long." : "The passkey failed.",
      error instanceof Error ? error.message.slice(0, 200) : "try again",
    );
  }
}
