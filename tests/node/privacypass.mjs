// Obtains and redeems one token of each type that @cloudflare/privacypass-ts knows, from a
// challenge on. The library is unmodified; what it takes for granted about the network (TLS,
// DNS, and that somebody vouches for the client) is done here in `fetch`: requests to the
// issuer go to the server under test, and token requests are signed (RFC 9421).
//
//   node privacypass.mjs <server's URL> <home domain> <Ed25519 seed of a client, hex>
import { createHash, createPrivateKey, createPublicKey, randomUUID, sign } from 'node:crypto';
import {
    header_to_token, fetchToken, privateVerif, publicVerif, TOKEN_TYPES, WWWAuthenticateHeader,
} from '@cloudflare/privacypass-ts';

const [server, domain, seed] = process.argv.slice(2);
const pkcs8 = Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), Buffer.from(seed, 'hex')]);
const key = createPrivateKey({ key: pkcs8, format: 'der', type: 'pkcs8' });
const keyid = createPublicKey(key).export({ format: 'jwk' }).x;

const network = globalThis.fetch;
globalThis.fetch = async (url, init = {}) => {
    const target = new URL(String(url).replace(`https://${domain}`, server));
    const headers = new Headers(init.headers);
    if (init.method === 'POST' && target.pathname !== '/ds/group-ids') {
        const digest = `sha-256=:${createHash('sha256').update(init.body).digest('base64')}:`;
        const created = Math.floor(Date.now() / 1000);
        const params = '("@method" "@authority" "@path" "@query" "content-digest");' +
            `created=${created};nonce="${randomUUID()}";alg="ed25519";keyid="${keyid}"`;
        const base = `"@method": POST\n"@authority": ${domain}\n"@path": ${target.pathname}\n"@query": ?\n` +
            `"content-digest": ${digest}\n"@signature-params": ${params}`;
        headers.set('content-digest', digest);
        headers.set('signature-input', `client=${params}`);
        headers.set('signature', `client=:${sign(null, Buffer.from(base), key).toString('base64')}:`);
    }
    return network(target, { ...init, headers });
};

const knock = (authorization) =>
    fetch(`${server}/ds/group-ids`, { method: 'POST', headers: authorization ? { authorization } : {} });

function expect(what, found, expected) {
    if (found !== expected) throw new Error(`${what}: ${found}, not ${expected}`);
    console.log(`${what}: ${found}`);
}

const refusal = await knock();
expect('without a token', refusal.status, 401);
const offer = refusal.headers.get('www-authenticate');
const challenges = WWWAuthenticateHeader.parse(offer);
const clients = [
    [TOKEN_TYPES.VOPRF.value, () => new privateVerif.Client()],
    [TOKEN_TYPES.BLIND_RSA.value, () => new publicVerif.Client(publicVerif.BlindRSAMode.PSS)],
];
for (const [type, client] of clients) {
    const challenge = challenges.find((one) => one.challenge.tokenType === type);
    const header = await fetchToken(client(), challenge);
    for (const quoted of [false, true]) {
        const status = quoted ? 401 : 201;
        expect(`a token of type ${type}${quoted ? ', again' : ''}`, (await knock(header.toString(quoted))).status, status);
    }
}
// The library's shortest way: the whole header in, an authorization out.
expect('the first challenge answered', (await knock(await header_to_token(offer))).status, 201);
