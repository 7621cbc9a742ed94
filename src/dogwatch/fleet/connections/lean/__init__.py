"""SSH for the usual login: one known key, no jump host, AES-GCM. Anything else is for the general lane (asyncssh).

What lives here: RFC 4251 to 4254 as far as that login needs them. What does not: parsing of OpenSSH's configuration,
agents, certificates, passwords, other ciphers. Where a server or a login asks for these, `Unusual` is raised before
anything was proved to the server.
"""
