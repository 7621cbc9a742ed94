// An OpenID provider with a login form, for tests: oidc-provider (certified by the OpenID Foundation) with users from a
// file. Its only argument is the path of its configuration: issuer, port, client, jwks, users, in_token, skew_s.
import { readFileSync } from "node:fs";

const config = JSON.parse(readFileSync(process.argv[2], "utf-8"));
if (config.skew_s) {
  const now = Date.now;
  Date.now = () => now() + config.skew_s * 1000;
}
// Installed elsewhere, once for every checkout.
const { default: Provider } = await import(new URL(`file://${config.library}`));

const users = () => JSON.parse(readFileSync(process.argv[2], "utf-8")).users;
const escaped = (text) => String(text).replace(/[&<>"']/g, (one) => `&#${one.charCodeAt(0)};`);

const provider = new Provider(config.issuer, {
  clients: [{
    client_id: config.client.id,
    client_secret: config.client.secret,
    redirect_uris: config.client.redirect_uris,
    grant_types: ["authorization_code"],
    response_types: ["code"],
  }],
  jwks: config.jwks,
  cookies: { keys: ["only for tests"] },
  claims: { openid: ["sub"], profile: ["name", "preferred_username", "groups"], email: ["email"] },
  // As the standard has it claims are told at userinfo; many providers put them into the token.
  conformIdTokenClaims: !config.in_token,
  ttl: { Interaction: 600, Session: 3600, Grant: 3600, AccessToken: 300, IdToken: 300 },
  features: { devInteractions: { enabled: false } },
  interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
  async findAccount(ctx, id) {
    const found = Object.values(users()).find((one) => one.claims.sub === id);
    return found && { accountId: id, claims: () => found.claims };
  },
  // Whoever runs the provider has agreed for its users.
  async loadExistingGrant(ctx) {
    const grant = new ctx.oidc.provider.Grant({
      clientId: ctx.oidc.client.clientId,
      accountId: ctx.oidc.session.accountId,
    });
    grant.addOIDCScope("openid profile email");
    await grant.save();
    return grant;
  },
});

async function form(ctx) {
  const parts = [];
  for await (const part of ctx.req) parts.push(part);
  return new URLSearchParams(Buffer.concat(parts).toString());
}

function page(ctx, uid, why) {
  ctx.status = why ? 401 : 200;
  ctx.type = "html";
  ctx.body = `<!doctype html><html lang="en"><title>Sign in</title><h1>Sign in</h1>
${why ? `<p role="alert">${escaped(why)}</p>` : ""}
<form method="post" action="/interaction/${escaped(uid)}">
<label>User <input name="login"></label>
<label>Password <input name="password" type="password"></label>
<button>Sign in</button></form>
<form method="post" action="/interaction/${escaped(uid)}/abort"><button>Cancel</button></form></html>`;
}

provider.use(async (ctx, next) => {
  const [, place, uid, what] = ctx.path.split("/");
  if (place !== "interaction") return next();
  await provider.interactionDetails(ctx.req, ctx.res);
  if (ctx.method !== "POST") return page(ctx, uid, "");
  let result = { error: "access_denied", error_description: "the user did not want to" };
  if (what !== "abort") {
    const fields = await form(ctx);
    const user = users()[fields.get("login")];
    if (!user || user.password !== fields.get("password")) return page(ctx, uid, "Wrong user or password");
    result = { login: { accountId: user.claims.sub } };
  }
  ctx.respond = false;
  await provider.interactionFinished(ctx.req, ctx.res, result);
});

provider.listen(config.port, "127.0.0.1", () => console.log("ready"));
