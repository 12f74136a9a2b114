import { expect, it } from "vitest";
import { short } from "./account";

it("shortens an account to what tells it from others, and leaves short names whole", () => {
  expect(short("acct_01JABCDEFGHJKMNPQRSTVWXYZ0")).toBe("acct_…STVWXYZ0");
  expect(short("guest")).toBe("guest");
  expect(short("acct_1")).toBe("acct_1");
});
