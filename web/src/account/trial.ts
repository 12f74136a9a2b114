// Trying it out on LOCAL chains: a test wallet, test money, a session and credits, all in one.

import { Refused } from "../api/http";
import type { Network } from "../api/shapes";
import { pay, prepare, signed } from "../pay/payment";
import { challenge, signIn } from "../pay/sign-in";
import { fund, testWallet } from "../pay/testwallet";

const TRIAL_USD = "1";

/** Sign in as the test wallet with credits to spend; `says` is told each step. */
export async function tryOut(network: Network, says: (doing: string) => void): Promise<void> {
  const wallet = await testWallet().connect();
  says("Signing in");
  const message = await challenge(wallet, network.network);
  const known = await signIn(message, await wallet.signText(message));
  // Who comes back with something left needs no more.
  if (BigInt(known.balance) > 0n) return;
  const buys = { topup_usd: TRIAL_USD };
  const ready = (): ReturnType<typeof prepare> => prepare(network.network, wallet.address, buys);
  says("Getting test money");
  const prepared = await ready().catch(async (caught: unknown) => {
    if (!(caught instanceof Refused) || caught.code !== "insufficient_credit") throw caught;
    await fund(network.network, wallet.address);
    return ready();
  });
  says(`Paying $${TRIAL_USD} of test money in`);
  await pay(prepared, await signed(wallet, network, prepared));
}
