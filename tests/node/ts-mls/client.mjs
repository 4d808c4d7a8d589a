// Members of groups whose MLS library is ts-mls. A line of JSON on stdin asks one of them for something, a line on
// stdout answers; bytes are hexadecimal. What it does on the network its test does for it.
//
//   node client.mjs
import { register } from 'node:module';
import { createInterface } from 'node:readline';

register('./corrections.mjs', import.meta.url);
const mls = await import('ts-mls');
// The package exports no decoder for a tree that comes beside a GroupInfo.
const { ratchetTreeDecoder } = await import('./node_modules/ts-mls/dist/src/ratchetTree.js');

const cipherSuite = await mls.getCiphersuiteImpl('MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519');
const context = { cipherSuite, authService: mls.unsafeTestingAuthenticationService };
const SELF_REMOVE = 10;

const bytes = (hex) => new Uint8Array(Buffer.from(hex, 'hex'));
const hex = (bytes) => Buffer.from(bytes).toString('hex');
const read = (text) => {
    const message = mls.decode(mls.mlsMessageDecoder, bytes(text));
    if (message === undefined) throw new Error('not an MLSMessage that ts-mls reads');
    return message;
};
const write = (message) => hex(mls.encode(mls.mlsMessageEncoder, message));
const readTree = (text) => mls.decode(ratchetTreeDecoder, bytes(text));
// Leaves stand at the even places (RFC 9420 appendix C).
const leafOf = (tree, key) => tree.findIndex((node) => node?.leaf && hex(node.leaf.signaturePublicKey) === key) / 2;
const removal = (removed) => ({ proposalType: mls.defaultProposalTypes.remove, remove: { removed } });

class Member {
    constructor({ seed, key, identity, extensions, days }) {
        this.key = { signKey: bytes(seed), publicKey: bytes(key) };
        this.credential = { credentialType: mls.defaultCredentialTypes.basic, identity: bytes(identity) };
        this.extensions = extensions.map(([extensionType, data]) => ({ extensionType, extensionData: bytes(data) }));
        const now = BigInt(Math.floor(Date.now() / 1000));
        this.lifetime = { notBefore: now - 3600n, notAfter: now + BigInt(days) * 86400n };
    }

    async keyPackage() {
        const { publicPackage, privatePackage } = await mls.generateKeyPackageWithKey({
            credential: this.credential,
            capabilities: {
                versions: [mls.protocolVersions.mls10],
                ciphersuites: [cipherSuite.id],
                extensions: [0xf0a1, 0xf0a2, 0xf0a3],
                proposals: [SELF_REMOVE],
                credentials: [mls.defaultCredentialTypes.basic],
            },
            lifetime: this.lifetime,
            extensions: [],
            signatureKeyPair: this.key,
            cipherSuite,
            leafNodeExtensions: this.extensions,
        });
        return { keyPackage: publicPackage, privateKeys: privatePackage };
    }

    async key_package() {
        this.joining = await this.keyPackage();
        const { keyPackage } = this.joining;
        const wireformat = mls.wireformats.mls_key_package;
        return { key_package: write({ version: mls.protocolVersions.mls10, wireformat, keyPackage }) };
    }

    async join({ welcome, ratchet_tree }) {
        this.state = await mls.joinGroup({
            context, welcome: read(welcome).welcome, ratchetTree: readTree(ratchet_tree), ...this.joining,
        });
        return {};
    }

    async join_externally({ group_info, ratchet_tree, authenticated_data }) {
        const tree = readTree(ratchet_tree);
        const { publicMessage, newState } = await mls.joinGroupExternal({
            context,
            groupInfo: read(group_info).groupInfo,
            tree,
            resync: leafOf(tree, hex(this.key.publicKey)) >= 0,
            authenticatedData: bytes(authenticated_data),
            ...await this.keyPackage(),
        });
        const wireformat = mls.wireformats.mls_public_message;
        return this.made(newState, { version: mls.protocolVersions.mls10, wireformat, publicMessage });
    }

    async commit({ add, remove }) {
        const proposals = [
            ...add.map((message) => ({
                proposalType: mls.defaultProposalTypes.add, add: { keyPackage: read(message).keyPackage },
            })),
            ...remove.map((key) => removal(leafOf(this.state.ratchetTree, key))),
        ];
        const { newState, welcome, commit } = await mls.createCommit({
            context, state: this.state, wireAsPublicMessage: true, extraProposals: proposals,
        });
        return this.made(newState, commit, welcome);
    }

    async made(next, commit, welcome) {
        this.next = next;
        const groupInfo = await mls.createGroupInfoWithExternalPub(next, [], cipherSuite);
        const wireformat = mls.wireformats.mls_group_info;
        return {
            commit: write(commit),
            welcome: welcome && write(welcome),
            group_info: write({ version: mls.protocolVersions.mls10, wireformat, groupInfo }),
        };
    }

    async merge() {
        this.state = this.next;
        return {};
    }

    async leave() {
        const { newState, message } = await mls.createProposal({
            context, state: this.state, wireAsPublicMessage: true,
            proposal: removal(this.state.privatePath.leafIndex),
        });
        this.state = newState;
        return { message: write(message) };
    }

    async say({ text }) {
        const { newState, message } = await mls.createApplicationMessage({
            context, state: this.state, message: bytes(text),
        });
        this.state = newState;
        return { message: write(message) };
    }

    async receive({ message }) {
        // It fails at the path of a commit that removes it: such a one is only looked at.
        const own = this.state.privatePath.leafIndex;
        let removed = false;
        const callback = (incoming) => {
            const removes = ({ proposal }) =>
                proposal.proposalType === mls.defaultProposalTypes.remove && proposal.remove.removed === own;
            removed = incoming.kind === 'commit' && incoming.proposals.some(removes);
            return removed ? 'reject' : 'accept';
        };
        const result = await mls.processMessage({ context, state: this.state, message: read(message), callback });
        this.state = removed ? undefined : result.newState;
        return { text: result.kind === 'applicationMessage' ? hex(result.message) : undefined };
    }

    async view() {
        const { state } = this;
        if (state === undefined) return {};
        return {
            epoch_authenticator: hex(state.keySchedule.epochAuthenticator),
            members: mls.getGroupMembers(state).map((leaf) => hex(leaf.signaturePublicKey)),
        };
    }
}

const members = [];
for await (const line of createInterface({ input: process.stdin })) {
    const { member, what, ...rest } = JSON.parse(line);
    let answer;
    try {
        answer = what === 'new' ? { member: members.push(new Member(rest)) - 1 } : await members[member][what](rest);
    } catch (error) {
        answer = { error: String(error.stack) };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
}
