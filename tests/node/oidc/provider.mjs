// An identity provider (OpenID Connect) on this machine: `oidc-provider`, with one client `postern`. Anybody logs in, as the
// account that the login hint names. A line of JSON on stdin asks for something, a line on stdout answers.
//
//   node provider.mjs
import { createHash, createHmac, generateKeyPairSync, randomBytes, sign } from 'node:crypto';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';

// The library talks on stdout.
for (const method of ['info', 'log', 'warn']) console[method] = console.error;
const { default: Provider } = await import('oidc-provider');

const CLIENT = 'postern';
const REDIRECT = 'http://127.0.0.1/';

const server = createServer();
await new Promise((done) => server.listen(0, '127.0.0.1', done));
const issuer = `http://127.0.0.1:${server.address().port}`;
let key;
let provider;

function start() {
    const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
    key = { privateKey, kid: randomBytes(8).toString('hex') };
    provider = new Provider(issuer, {
        clients: [{
            client_id: CLIENT,
            application_type: 'native',
            token_endpoint_auth_method: 'none',
            redirect_uris: [REDIRECT],
        }],
        cookies: { keys: [randomBytes(16).toString('hex')] },
        features: { devInteractions: { enabled: false } },
        findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
        interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
        jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), kid: key.kid, use: 'sig', alg: 'RS256' }] },
        async loadExistingGrant(ctx) {
            const { client, session } = ctx.oidc;
            const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
            grant.addOIDCScope('openid');
            await grant.save();
            return grant;
        },
    });
}

server.on('request', async (request, response) => {
    if (!request.url.startsWith('/interaction/')) return provider.callback()(request, response);
    const { params } = await provider.interactionDetails(request, response);
    // Programs on a person's own machine need a consent each time.
    const result = { login: { accountId: params.login_hint }, consent: {} };
    await provider.interactionFinished(request, response, result);
});

const base64url = (bytes) => Buffer.from(bytes).toString('base64url');

// Follows redirects as a browser does, up to the one that leaves the provider.
async function browse(url) {
    const cookies = new Map();
    let next = new URL(url);
    for (let pages = 0; next.origin === issuer; pages += 1) {
        if (pages === 10) throw new Error('the login does not end');
        const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join('; ');
        const answer = await fetch(next, { redirect: 'manual', headers: { cookie } });
        for (const set of answer.headers.getSetCookie()) {
            const [, name, value] = set.match(/^([^=]+)=([^;]*)/);
            cookies.set(name, value);
        }
        const location = answer.headers.get('location');
        if (location === null) throw new Error(`${next.pathname}: ${answer.status} ${await answer.text()}`);
        next = new URL(location, next);
    }
    return next;
}

const questions = {
    // The ID token of a login with this nonce; with a maximum age it tells when that was.
    async login({ subject, nonce, max_age: maxAge }) {
        const verifier = base64url(randomBytes(32));
        const query = new URLSearchParams({
            client_id: CLIENT,
            redirect_uri: REDIRECT,
            response_type: 'code',
            scope: 'openid',
            nonce,
            login_hint: subject,
            code_challenge: createHash('sha256').update(verifier).digest('base64url'),
            code_challenge_method: 'S256',
        });
        if (maxAge !== undefined) query.set('max_age', maxAge);
        const code = (await browse(`${issuer}/auth?${query}`)).searchParams.get('code');
        const body = new URLSearchParams({
            client_id: CLIENT, redirect_uri: REDIRECT, grant_type: 'authorization_code', code, code_verifier: verifier,
        });
        const answer = await fetch(`${issuer}/token`, { method: 'POST', body });
        return { id_token: (await answer.json()).id_token };
    },
    // Logs in on a page that somebody else opened, and goes where it leads.
    async open({ url, subject }) {
        const page = new URL(url);
        page.searchParams.set('login_hint', subject);
        const answer = await fetch(await browse(page));
        return { text: await answer.text() };
    },
    // A token with any claims, in the provider's name.
    sign({ claims, algorithm }) {
        const head = { alg: algorithm, kid: key.kid };
        const text = [head, claims].map((part) => base64url(JSON.stringify(part))).join('.');
        const jwk = key.privateKey.export({ format: 'jwk' });
        const signature = {
            RS256: () => sign('sha256', Buffer.from(text), key.privateKey),
            // With the public key, which anybody has, as the secret.
            HS256: () => createHmac('sha256', jwk.n).update(text).digest(),
            none: () => '',
        }[algorithm]();
        return { id_token: `${text}.${base64url(signature)}` };
    },
    // Other keys from now on.
    rotate() {
        start();
        return {};
    },
};

start();
process.stdout.write(`${JSON.stringify({ issuer })}\n`);
for await (const line of createInterface({ input: process.stdin })) {
    const question = JSON.parse(line);
    let answer;
    try {
        answer = await questions[question.what](question);
    } catch (error) {
        answer = { error: String(error?.stack ?? error) };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit();
